package local

import (
	"net/netip"
	"testing"
)

func TestOverlapping(t *testing.T) {
	taken := map[netip.Prefix]string{}
	for prefix, by := range map[string]string{
		"0.0.0.0/0": "the default route", "10.42.0.0/24": "cluster a", "10.42.0.1/32": "an address", "10.42.7.0/25": "low", "10.42.7.128/25": "high",
	} {
		taken[netip.MustParsePrefix(prefix)] = by
	}
	for prefix, want := range map[string]string{
		"10.42.0.0/24": "cluster a", "10.42.0.0/16": "cluster a", "10.42.0.128/25": "cluster a",
		"10.42.1.0/24": "", "10.42.7.0/24": "low", "10.42.7.200/29": "high",
	} {
		for range 20 { // a map has no order
			if got := overlapping(netip.MustParsePrefix(prefix), taken); got != want {
				t.Errorf("%s: %q, want %q", prefix, got, want)
				break
			}
		}
	}
}

func TestFirstFree(t *testing.T) {
	taken := map[netip.Prefix]string{netip.MustParsePrefix("10.42.0.0/24"): "a", netip.MustParsePrefix("10.42.1.9/32"): "b"}
	if got := firstFree(taken); got != "10.42.2.0/24" {
		t.Errorf("got %s", got)
	}
	if got := firstFree(map[netip.Prefix]string{netip.MustParsePrefix("10.42.0.0/16"): "all"}); got != "" {
		t.Errorf("all is taken, got %s", got)
	}
}
