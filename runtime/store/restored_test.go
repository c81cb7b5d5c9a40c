package store

import (
	"testing"
	"time"
)

// An etcd that was restored from a snapshot is at an earlier revision. Watches
// waited for what is newer: the API showed, and agents followed, what was no more.
func TestARestoredStoreIsListedAnew(t *testing.T) {
	st, s := newStore(t)
	m := st.Mirror(t.Context())
	submit := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if _, err := st.ApplyUnits(t.Context(), []UnitChange{{Name: name, Text: "[Unit]\n"}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	has := func(name string) func(*View) bool {
		return func(v *View) bool { return v.Units[name].Name != "" }
	}
	snapshots := make(chan int64, 100)
	go func() {
		_ = st.FollowPlacements(t.Context(), "m1", func(u PlacementUpdate) {
			if u.Snapshot {
				snapshots <- u.Revision
			}
		})
	}()
	<-snapshots

	submit("older.service")
	s.Kill()
	restore := s.Keep()
	s.Run()
	submit("a.service", "b.service", "c.service")
	eventually(t, m, "all units", has("c.service"))
	before := m.View().Revision

	s.Kill()
	restore()
	s.Run()
	eventually(t, m, "only what the snapshot has", func(v *View) bool { return has("older.service")(v) && !has("c.service")(v) })
	for limit := time.After(10 * time.Second); ; {
		select {
		case r := <-snapshots:
			if r < before {
				submit("next.service")
				eventually(t, m, "what comes after", has("next.service"))
				return
			}
		case <-limit:
			t.Fatal("the placements were not listed anew")
		}
	}
}
