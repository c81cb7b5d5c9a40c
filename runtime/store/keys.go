package store

import "strings"

// DefaultPrefix is put before every key of Plasmid's own.
const DefaultPrefix = "/plasmid/"

// The keys below the prefix.
const (
	dirUnits      = "units/"      // units/<unit>
	dirPlacements = "placements/" // placements/<machine>/<unit>
	dirMachines   = "machines/"   // machines/<machine>, on the machine's lease
	dirStates     = "states/"     // states/<machine>/<unit>, on the machine's lease
	dirKnown      = "known/"      // known/<machine>: the last facts of a machine, on no lease
	dirMetadata   = "metadata/"   // metadata/<machine>/<key>, set by operators
	dirReboots    = "reboot/"     // reboot/<group>: who may reboot
	dirOrders     = "orders/"     // orders/<machine>, by operators
	dirSingletons = "singletons/" // singletons/<unit>: the machine that may run it, on its claims' lease
	dirAvoid      = "avoid/"      // avoid/<unit>/<machine>
	dirDone       = "done/"       // done/<unit>
	keyRebalance  = "rebalance"
	keySchema     = "schema"
	keyElection   = "election/engine" // on the leader's lease
)

func unitKey(name string) string               { return dirUnits + name }
func machineKey(id string) string              { return dirMachines + id }
func knownKey(id string) string                { return dirKnown + id }
func placementKey(machine, unit string) string { return dirPlacements + machine + "/" + unit }
func stateKey(machine, unit string) string     { return dirStates + machine + "/" + unit }
func metadataKey(machine, key string) string   { return dirMetadata + machine + "/" + key }
func rebootKey(group string) string            { return dirReboots + group }
func singletonKey(unit string) string          { return dirSingletons + unit }
func avoidKey(unit, machine string) string     { return dirAvoid + unit + "/" + machine }
func doneKey(unit string) string               { return dirDone + unit }
func orderKey(machine string) string           { return dirOrders + machine }
func splitKey(key string) (first, rest string) { first, rest, _ = strings.Cut(key, "/"); return }

// StateKey returns the unit of a key, named in full, of a machine's states.
func StateKey(key, machine string) (unit string, ok bool) {
	return strings.CutPrefix(key, DefaultPrefix+dirStates+machine+"/")
}
