package schedule

import (
	"fmt"
	"testing"

	"plasmid/runtime/unit"
)

// BenchmarkDecide plans 5,000 units onto 500 machines from nothing, and again
// when all is in place.
func BenchmarkDecide(b *testing.B) {
	var v View
	for i := range 500 {
		v.Machines = append(v.Machines, Machine{ID: fmt.Sprintf("%032d", i)})
	}
	for i := range 5000 {
		v.Units = append(v.Units, Unit{Spec: unit.Spec{Name: fmt.Sprintf("app@%d.service", i)}, Wish: "launched"})
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
