package systemd

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

const (
	logindName = "org.freedesktop.login1"
	logindPath = dbus.ObjectPath("/org/freedesktop/login1")
)

// Reboot asks for a reboot and returns before it. logind is asked first: it
// honours inhibitors, such as that of a running upgrade, and tells users who
// are logged in. Where there is none, systemd is asked itself.
func (m *Manager) Reboot(ctx context.Context) error {
	err := rebootByLogind(ctx)
	if err == nil {
		return nil
	}
	var d dbus.Error
	if errors.As(err, &d) && !absent(d.Name) {
		return fmt.Errorf("logind refuses to reboot: %w", err)
	}
	if err := m.call(ctx, "StartUnit", "reboot.target", "replace-irreversibly").Err; err != nil {
		return fmt.Errorf("asking systemd to reboot: %w", err)
	}
	return nil
}

// absent tells the bus's word that there is no such service from the
// service's own errors.
func absent(name string) bool {
	switch name {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
		"org.freedesktop.DBus.Error.Spawn.ServiceNotFound", "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.UnitMasked":
		return true
	}
	return false
}

func rebootByLogind(ctx context.Context) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer conn.Close()
	const interactive = false
	return conn.Object(logindName, logindPath).CallWithContext(ctx, logindName+".Manager.Reboot", 0, interactive).Err
}

// SystemState is how the machine as a whole is: starting, running, degraded,
// stopping or maintenance.
func (m *Manager) SystemState(ctx context.Context) (string, error) {
	l, err := m.current()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var v dbus.Variant
	if err := l.conn.Object(service, managerPath).CallWithContext(ctx, propertiesGet, 0, managerInterface, "SystemState").Store(&v); err != nil {
		return "", fmt.Errorf("asking systemd how the system is: %w", err)
	}
	s, _ := v.Value().(string)
	return s, nil
}
