package systemd

import (
	"encoding/hex"
	"strings"

	"github.com/godbus/dbus/v5"
)

const unitPaths = string(managerPath) + "/unit/"

// unitPath is where a unit is found on D-Bus: bytes that a path can't hold are
// written as _ and two hexadecimal digits.
func unitPath(name string) dbus.ObjectPath {
	const digits = "0123456789abcdef"
	var b strings.Builder
	b.WriteString(unitPaths)
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if letter || i > 0 && c >= '0' && c <= '9' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('_')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return dbus.ObjectPath(b.String())
}

// unitOf is the reverse of unitPath. ok is false for a path that is no unit's.
func unitOf(p dbus.ObjectPath) (name string, ok bool) {
	s, ok := strings.CutPrefix(string(p), unitPaths)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '_' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 > len(s) {
			return "", false
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.WriteByte(c[0])
		i += 2
	}
	return b.String(), true
}
