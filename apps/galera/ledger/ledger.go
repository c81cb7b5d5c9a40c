// Package ledger writes numbered rows to a Galera cluster and remembers which
// of them were acknowledged, to find out whether any is lost.
package ledger

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"plasmid/apps/galera/member"
)

const writeTimeout = 5 * time.Second

// Access is what a client needs to be let in.
type Access struct {
	Password string // the secret member.SecretPassword
	TLS      string // the secret member.SecretTLS; only its certificate is used
}

// Open returns connections to the member at address, host:port. Each is checked
// against the cluster's certificate.
func (a Access) Open(address string) (*sql.DB, error) {
	cert, _ := member.SplitTLS(a.TLS)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(cert) {
		return nil, errors.New("the cluster's secret has no certificate")
	}
	c := mysql.NewConfig()
	c.User, c.Passwd, c.DBName = member.User, a.Password, member.Database
	c.Net, c.Addr = "tcp", address
	c.Timeout, c.ReadTimeout, c.WriteTimeout = 2*time.Second, writeTimeout, writeTimeout
	c.TLS = &tls.Config{RootCAs: pool, ServerName: member.ServerName, MinVersion: tls.VersionTLS13}
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	return db, nil
}

// Writer writes 1, 2, 3 … under its name, one at a time. A number whose write
// failed may be there or not, and is not used again.
type Writer struct {
	Name   string
	Access Access

	mu    sync.Mutex
	next  int64
	acked []int64
}

// Create makes the table.
func (w *Writer) Create(ctx context.Context, address string) error {
	db, err := w.Access.Open(address)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS ledger (writer VARCHAR(64) NOT NULL, n BIGINT NOT NULL, PRIMARY KEY (writer, n))")
	return err
}

// Run writes through members, until ctx ends. After a failure it goes on with
// another one; members names those that are ready, host:port. refused is told
// of failures.
func (w *Writer) Run(ctx context.Context, members func(context.Context) ([]string, error), refused func(address string, err error)) {
	for i := 0; ctx.Err() == nil; i++ {
		addresses, err := members(ctx)
		address := ""
		if len(addresses) > 0 {
			address = addresses[i%len(addresses)]
			err = w.through(ctx, address)
		} else if err == nil {
			err = errors.New("no member is ready")
		}
		if ctx.Err() != nil {
			return
		}
		refused(address, err)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond): // of rest for a cluster that is down
		}
	}
}

// through writes through one member until that fails.
func (w *Writer) through(ctx context.Context, address string) error {
	db, err := w.Access.Open(address)
	if err != nil {
		return err
	}
	defer db.Close()
	for {
		w.mu.Lock()
		w.next++
		n := w.next
		w.mu.Unlock()
		wctx, cancel := context.WithTimeout(ctx, writeTimeout)
		_, err := db.ExecContext(wctx, "INSERT INTO ledger (writer, n) VALUES (?, ?)", w.Name, n)
		cancel()
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.acked = append(w.acked, n)
		w.mu.Unlock()
	}
}

// Acknowledged is how many writes were acknowledged so far.
func (w *Writer) Acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// Lost reads the ledger through one member, after all that the cluster has
// committed has come there, and returns the acknowledged numbers that it lacks.
func (w *Writer) Lost(ctx context.Context, address string) (lost []int64, err error) {
	db, err := w.Access.Open(address)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	w.mu.Lock()
	acked := append([]int64(nil), w.acked...)
	w.mu.Unlock()
	// One connection: the setting is the session's.
	if _, err := db.ExecContext(ctx, "SET SESSION wsrep_sync_wait = 1"); err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, "SELECT n FROM ledger WHERE writer = ?", w.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	have := map[int64]bool{}
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		have[n] = true
	}
	for _, n := range acked {
		if !have[n] {
			lost = append(lost, n)
		}
	}
	return lost, rows.Err()
}

// Cluster asks the member at address for the cluster's name and size.
func (a Access) Cluster(ctx context.Context, address string) (uuid string, size int, err error) {
	db, err := a.Open(address)
	if err != nil {
		return "", 0, err
	}
	defer db.Close()
	for name, to := range map[string]any{"wsrep_cluster_state_uuid": &uuid, "wsrep_cluster_size": &size} {
		var k string
		if err := db.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE '"+name+"'").Scan(&k, to); err != nil {
			return "", 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	return uuid, size, nil
}
