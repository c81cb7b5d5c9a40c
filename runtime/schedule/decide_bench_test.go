package schedule

import (
	"fmt"
	"testing"

	"plasmid/runtime/unit"
)

// BenchmarkDecide plans 5,000 units onto 500 machines: units that ask for
// nothing, units with conditions, reservations and a spread, and such of which
// most fit nowhere; from nothing, and again when all is in place.
func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct{ name, text string }{
		{"plain", ""},
		{"mixed", "[X-Plasmid]\nSpread=zone\nMachine=role=r%p cpus>=2\nMemory=512M\nPorts=80\n"},
		{"host", "[X-Plasmid]\nSpread=host\n"},
		{"full", "[X-Plasmid]\nMemory=8G\n"},
	} {
		b.Run(c.name, func(b *testing.B) { benchmark(b, c.text) })
	}
}

func benchmark(b *testing.B, text string) {
	var v View
	for i := range 500 {
		v.Machines = append(v.Machines, Machine{
			ID: fmt.Sprintf("%032d", i), CPU: 8000, Memory: 16 << 10,
			Metadata: map[string]string{"zone": fmt.Sprint(i % 3), "role": fmt.Sprintf("r%d", i%10)},
		})
	}
	for i := range 5000 {
		name := fmt.Sprintf("%d@%d.service", i%10, i)
		spec, err := unit.SpecOf(name, text)
		if err != nil {
			b.Fatal(err)
		}
		v.Units = append(v.Units, Unit{Spec: spec, Wish: "launched"})
	}
	b.Run("nothing placed", func(b *testing.B) {
		for b.Loop() {
			Decide(v)
		}
	})
	for _, d := range Decide(v).Decisions {
		v.Placed = append(v.Placed, Placed{Unit: d.Unit, Machine: d.Machine, Wish: "launched"})
	}
	b.Run("all placed", func(b *testing.B) {
		for b.Loop() {
			Decide(v)
		}
	})
}
