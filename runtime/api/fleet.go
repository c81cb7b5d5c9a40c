package api

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"plasmid/runtime/quadlet"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// The types of fleet's API v1.

type fleetUnit struct {
	Name         string        `json:"name"`
	Options      []unit.Option `json:"options"`
	DesiredState store.Wish    `json:"desiredState,omitempty"`
	CurrentState string        `json:"currentState,omitempty"`
	MachineID    string        `json:"machineID,omitempty"`
}

type fleetState struct {
	Name        string `json:"name"`
	Hash        string `json:"hash"`
	MachineID   string `json:"machineID"`
	LoadState   string `json:"systemdLoadState"`
	ActiveState string `json:"systemdActiveState"`
	SubState    string `json:"systemdSubState"`
}

type fleetMachine struct {
	ID        string            `json:"id"`
	PrimaryIP string            `json:"primaryIP"`
	Metadata  map[string]string `json:"metadata,omitempty"`
}

// pageSize is fleet's default token_limit.
const pageSize = 100

// fleetPrefixes are where fleet's API is: under its name, and where the first
// versions had it.
var fleetPrefixes = []string{"/fleet/v1", "/v1-alpha", "/fleet/v1-alpha"}

func (s *server) fleetRoutes(prefix string) []route {
	return []route{
		{method: "GET", path: prefix + "/units", least: RoleReader, handle: s.fleetUnits},
		{method: "GET", path: prefix + "/units/{name}", least: RoleReader, handle: s.fleetUnit},
		{method: "PUT", path: prefix + "/units/{name}", least: RoleOperator, handle: s.fleetPut},
		{method: "DELETE", path: prefix + "/units/{name}", least: RoleOperator, handle: s.fleetDelete},
		{method: "GET", path: prefix + "/state", least: RoleReader, handle: s.fleetStates},
		{method: "GET", path: prefix + "/state/{name}", least: RoleReader, handle: s.fleetStateOf},
		{method: "GET", path: prefix + "/machines", least: RoleReader, handle: s.fleetMachines},
		{method: "PATCH", path: prefix + "/machines", least: RoleAdmin, handle: s.fleetPatch},
		{method: "GET", path: prefix + "/discovery", least: RoleApp, handle: s.fleetDiscovery},
	}
}

// token is where a page begins. On the wire it is both numbers as 16 bits,
// the lower byte first, in base64 for URLs.
type token struct {
	limit, page uint16
}

func (t token) String() string {
	var b []byte
	b = binary.LittleEndian.AppendUint16(b, t.limit)
	b = binary.LittleEndian.AppendUint16(b, t.page)
	return base64.URLEncoding.EncodeToString(b)
}

func parseToken(s string) (token, error) {
	b, err := base64.URLEncoding.DecodeString(s)
	if err != nil || len(b) != 4 {
		return token{}, fmt.Errorf("nextPageToken %q is none that this API gave", s)
	}
	t := token{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])}
	switch {
	case t.limit != pageSize:
		return t, fmt.Errorf("token limit must be %d", pageSize)
	case t.page == 0:
		return t, errors.New("token page must be greater than zero")
	}
	return t, nil
}

// page cuts the page that the request asks for out of a sorted list and names
// the next one.
func page[T any](r *http.Request, all []T) (part []T, next string, err error) {
	t := token{limit: pageSize, page: 1}
	q := r.URL.Query()["nextPageToken"]
	if len(q) > 1 {
		return nil, "", errors.New("too many values for page token")
	}
	if len(q) == 1 {
		if t, err = parseToken(q[0]); err != nil {
			return nil, "", err
		}
	}
	start := min(int(t.page-1)*pageSize, len(all))
	end := min(start+pageSize, len(all))
	if end < len(all) {
		next = token{t.limit, t.page + 1}.String()
	}
	return all[start:end], next, nil
}

// servePage answers with a page under the list's name.
func servePage[T any](w http.ResponseWriter, r *http.Request, name string, all []T) {
	part, next, err := page(r, all)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	body := map[string]any{}
	if len(part) > 0 {
		body[name] = part
	}
	if next != "" {
		body["nextPageToken"] = next
	}
	write(w, http.StatusOK, body)
}

// toFleet describes a unit in fleet's words. loaded and launched mean that it
// is on a machine and that it was started there, not that it is active.
func toFleet(v *store.View, u store.Unit) fleetUnit {
	f := fleetUnit{Name: u.Name, DesiredState: u.Wish, CurrentState: string(store.Inactive)}
	file, err := unit.Parse(u.Text)
	if err == nil {
		f.Options = file.Options
	}
	if spec, err := unit.SpecOf(u.Name, u.Text); err == nil && spec.Global {
		f.CurrentState = ""
		return f
	}
	for machine, p := range v.Placements[u.Name] {
		f.MachineID = machine
		if _, reported := v.States[u.Name][machine]; reported {
			f.CurrentState = string(p.Wish)
		}
	}
	return f
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (s *server) fleetUnits(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	var all []fleetUnit
	for _, name := range sortedNames(v.Units) {
		all = append(all, toFleet(v, v.Units[name]))
	}
	servePage(w, r, "units", all)
}

func (s *server) fleetUnit(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	u, ok := v.Units[r.PathValue("name")]
	if !ok {
		fail(w, http.StatusNotFound, errors.New("unit does not exist"))
		return
	}
	write(w, http.StatusOK, toFleet(v, u))
}

// fleetPut creates a unit, or changes its wish or its options.
func (s *server) fleetPut(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, errors.New("only media type application/json is taken"))
		return
	}
	var body fleetUnit
	if err := decodeBody(r, &body); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	name := r.PathValue("name")
	old, exists := v.Units[name]
	c := store.UnitChange{Name: name, Wish: body.DesiredState, Replace: true}
	if body.Name != "" && body.Name != name {
		fail(w, http.StatusBadRequest, fmt.Errorf("name in URL %q differs from unit name in request body %q", name, body.Name))
		return
	}
	if len(body.Options) > 0 {
		f, err := unit.New(body.Options)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		if !exists || !sameOptions(old.Text, f) {
			c.Text = f.Text()
		} // else it is only written differently
	}
	if err := check(c); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	switch {
	case c.Text != "":
	case !exists:
		fail(w, http.StatusConflict, errors.New("unit does not exist and options field empty"))
		return
	case c.Wish == "":
		fail(w, http.StatusConflict, errors.New("must provide DesiredState to update existing unit"))
		return
	}
	revision, err := s.Store.ApplyUnits(r.Context(), []store.UnitChange{c})
	if err != nil {
		failStore(w, err)
		return
	}
	note(r, revision, noted(c))
	s.settle(r.Context(), revision)
	if c.Text != "" {
		w.WriteHeader(http.StatusCreated)
	} else {
		w.WriteHeader(http.StatusNoContent)
	}
}

// noted says for the audit log what a change is.
func noted(c store.UnitChange) string {
	var did string
	switch {
	case c.Delete:
		return "destroyed " + c.Name
	case c.Text != "" && c.Wish != "":
		did = "gave " + c.Name + " the text " + unit.Hash(c.Text)[:7] + " and made it " + string(c.Wish)
	case c.Text != "":
		did = "gave " + c.Name + " the text " + unit.Hash(c.Text)[:7]
	default:
		did = "made " + c.Name + " " + string(c.Wish)
	}
	return did
}

func sameOptions(text string, f *unit.File) bool {
	old, err := unit.Parse(text)
	return err == nil && slices.Equal(old.Options, f.Options)
}

// check refuses what no machine could make sense of.
func check(c store.UnitChange) error {
	n, err := unit.ParseName(c.Name)
	if err != nil {
		return err
	}
	if c.Wish != "" && !c.Wish.Valid() {
		return fmt.Errorf("unit %s: wish %q is none of inactive, loaded, launched", c.Name, c.Wish)
	}
	if c.Wish != "" && c.Wish != store.Inactive {
		if err := n.Runnable(); err != nil {
			return err
		}
	}
	if c.Text != "" {
		if _, err = unit.SpecOf(c.Name, c.Text); err == nil {
			_, err = quadlet.Unit(c.Name, c.Text)
		}
	}
	return err
}

func (s *server) fleetDelete(w http.ResponseWriter, r *http.Request) {
	revision, err := s.Store.ApplyUnits(r.Context(), []store.UnitChange{{Name: r.PathValue("name"), Delete: true}})
	if errors.Is(err, store.ErrNotFound) {
		fail(w, http.StatusNotFound, errors.New("unit does not exist"))
		return
	}
	if err != nil {
		failStore(w, err)
		return
	}
	note(r, revision, "destroyed "+r.PathValue("name"))
	s.settle(r.Context(), revision)
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) fleetStates(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	machine, name := r.URL.Query().Get("machineID"), r.URL.Query().Get("unitName")
	servePage(w, r, "states", states(v, machine, name))
}

func states(v *store.View, machine, name string) []fleetState {
	var all []fleetState
	for u, on := range v.States {
		for m, st := range on {
			if (name == "" || u == name) && (machine == "" || m == machine) {
				all = append(all, fleetState{u, st.Hash, m, st.Load, st.Active, st.Sub})
			}
		}
	}
	slices.SortFunc(all, func(a, b fleetState) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.MachineID, b.MachineID))
	})
	return all
}

func (s *server) fleetStateOf(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	all := states(v, "", r.PathValue("name"))
	if len(all) == 0 {
		fail(w, http.StatusNotFound, errors.New("unit does not exist or has no state"))
		return
	}
	write(w, http.StatusOK, all[0])
}

func (s *server) fleetMachines(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	var all []fleetMachine
	for _, id := range sortedNames(v.Machines) {
		all = append(all, fleetMachine{id, v.Machines[id].PublicIPv4, v.MachineMetadata(id)})
	}
	servePage(w, r, "machines", all)
}

// patch is one entry of a JSON patch over machines' metadata. fleet's server
// wanted the value within an object, its documents had it bare; both are taken.
type patch struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

func (p patch) value() (string, error) {
	var bare string
	if json.Unmarshal(p.Value, &bare) == nil && bare != "" {
		return bare, nil
	}
	var nested struct{ Value string }
	if err := json.Unmarshal(p.Value, &nested); err != nil || nested.Value == "" {
		return "", fmt.Errorf("invalid value %s for %s", p.Value, p.Path)
	}
	return nested.Value, nil
}

// fleetPatch changes machines' metadata; all of the patch is checked before
// any of it is carried out.
func (s *server) fleetPatch(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	var patches []patch
	if err := decodeBody(r, &patches); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	type change struct{ machine, key, value, op string }
	var changes []change
	for _, p := range patches {
		parts := strings.Split(p.Path, "/")
		if len(parts) != 4 || parts[0] != "" || parts[2] != "metadata" || parts[3] == "" {
			fail(w, http.StatusBadRequest, fmt.Errorf("invalid path %q: it is /<machine>/metadata/<key>", p.Path))
			return
		}
		if _, known := v.Known[parts[1]]; !known {
			fail(w, http.StatusBadRequest, fmt.Errorf("invalid path %q: there is no such machine", p.Path))
			return
		}
		c := change{parts[1], parts[3], "", p.Op}
		switch p.Op {
		case "add", "replace":
			var err error
			if c.value, err = p.value(); err != nil {
				fail(w, http.StatusBadRequest, err)
				return
			}
		case "remove":
		default:
			fail(w, http.StatusBadRequest, fmt.Errorf("invalid op %q: it is add, remove or replace", p.Op))
			return
		}
		changes = append(changes, c)
	}
	var revision int64
	for _, c := range changes {
		var err error
		switch _, inFile := v.Known[c.machine].Metadata[c.key]; {
		case c.op != "remove":
			revision, err = s.Store.SetMetadata(r.Context(), c.machine, c.key, c.value)
		case inFile:
			revision, err = s.Store.SetMetadata(r.Context(), c.machine, c.key, "") // hides it
		default:
			revision, err = s.Store.DeleteMetadata(r.Context(), c.machine, c.key)
		}
		if err != nil {
			failStore(w, err)
			return
		}
		if c.op == "remove" {
			note(r, revision, fmt.Sprintf("took metadata %s from %s", c.key, v.Known[c.machine].Name))
		} else {
			note(r, revision, fmt.Sprintf("gave %s metadata %s=%s", v.Known[c.machine].Name, c.key, c.value))
		}
	}
	s.settle(r.Context(), revision)
	w.WriteHeader(http.StatusNoContent)
}
