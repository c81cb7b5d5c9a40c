//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// notes are the lines that a file has on each machine on which it is.
func (c *cluster) notes(file string, machines ...string) map[string][]string {
	c.t.Helper()
	found := map[string][]string{}
	for _, m := range machines {
		if lines := strings.Fields(c.in(m, "cat "+file+" 2>/dev/null || true")); len(lines) > 0 {
			found[m] = lines
		}
	}
	return found
}

// noted waits until a file is on one of the machines, and returns which.
func (c *cluster) noted(file string, machines ...string) (machine string) {
	c.t.Helper()
	c.until(40*time.Second, "there is "+file, func() error {
		for m := range c.notes(file, machines...) {
			machine = m
			return nil
		}
		return errors.New("there is none")
	})
	return machine
}

// runsOnce has daemons killed and a machine lost while work is done that is to
// be done once.
func runsOnce(t *testing.T, c *cluster, all []string) {
	once := func(name, seconds string) string {
		return c.unit(name+".service", "[Service]\nExecStart=/bin/sh -c 'echo begun >>/var/tmp/"+name+"; sleep "+seconds+"; echo ended >>/var/tmp/"+name+"'\n[X-Plasmid]\nRunOnce=yes\n")
	}
	c.mustRun("start", "--no-block", once("job", "8"))
	at := c.noted("/var/tmp/job", all...)
	for _, m := range all {
		c.in(m, "systemctl kill --signal=KILL plasmidd")
	}
	done := func(file string, machines ...string) {
		t.Helper()
		c.until(40*time.Second, file+" has ended", func() error {
			for _, lines := range c.notes(file, machines...) {
				if lines[len(lines)-1] == "ended" {
					return nil
				}
			}
			return errors.New("it has not")
		})
	}
	done("/var/tmp/job", at)
	// Again after its end, and with another to be done after that.
	c.in(at, "systemctl kill --signal=KILL plasmidd")
	c.mustRun("start", c.unit("then.service", sleeper+"[X-Plasmid]\nAfter=job.service\n"))
	if got := fmt.Sprint(c.notes("/var/tmp/job", all...)); got != "map["+at+":[begun ended]]" {
		t.Errorf("it was to run once: %s", got)
	}
	c.mustRun("destroy", "job.service", "then.service")

	// Its machine is lost before the end: it begins again elsewhere, and ends
	// there once, also when the machine is back.
	c.mustRun("start", "--no-block", once("lost", "10"))
	at = c.noted("/var/tmp/lost", all...)
	var rest []string
	for _, m := range all {
		if m != at {
			rest = append(rest, m)
		}
	}
	c.mustRun("local", "power-off", at)
	elsewhere := c.noted("/var/tmp/lost", rest...)
	c.mustRun("local", "power-on", at)
	done("/var/tmp/lost", rest...)
	c.until(60*time.Second, at+" is back", func() error {
		for _, m := range c.machines() {
			if m.Name == at && m.Alive {
				return nil
			}
		}
		return errors.New("it is silent")
	})
	c.mustRun("start", c.unit("then.service", sleeper+"[X-Plasmid]\nAfter=lost.service\n"))
	notes := c.notes("/var/tmp/lost", all...)
	if fmt.Sprint(notes[elsewhere]) != "[begun ended]" || fmt.Sprint(notes[at]) != "[begun]" || len(notes) != 2 {
		t.Errorf("it was lost on %s and begun again on %s: %v", at, elsewhere, notes)
	}
	c.mustRun("destroy", "lost.service", "then.service")
}

// firesOnce has a timer fire in the cluster while daemons are killed.
func firesOnce(t *testing.T, c *cluster, all []string) {
	c.mustRun("load", c.unit("tick.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo fired >>/var/tmp/tick'\n"))
	c.mustRun("start", c.unit("tick.timer", "[Timer]\nOnActiveSec=3s\nAccuracySec=100ms\n[X-Fleet]\nMachineOf=tick.service\n"))
	for _, m := range all {
		c.in(m, "systemctl kill --signal=KILL plasmidd")
	}
	c.noted("/var/tmp/tick", all...)
	for _, m := range all {
		c.in(m, "systemctl kill --signal=KILL plasmidd")
	}
	c.until(time.Minute, "the cluster takes changes again", func() error {
		_, err := c.run("start", "--timeout", "20s", c.unit("after.service", sleeper))
		return err
	})
	if notes := c.notes("/var/tmp/tick", all...); len(notes) != 1 || !strings.HasSuffix(fmt.Sprint(notes), ":[fired]]") {
		t.Errorf("it was to fire once: %v", notes)
	}
	c.mustRun("destroy", "tick.timer", "tick.service", "after.service")
}

// rollsUnderFaults changes six units one after the other while daemons are
// killed. Never are two of them away, and each is changed once.
func rollsUnderFaults(t *testing.T, c *cluster, all []string) {
	var names []string
	text := func(v string) {
		c.unit("r@.service", "[Service]\nExecStartPre=/bin/sh -c 'echo "+v+"-%i >>/var/tmp/rolled'\nExecStart=/bin/sleep infinity\n[X-Plasmid]\nUpdate=rolling max=1 gate=2s\n")
	}
	text("old")
	for i := range 6 {
		names = append(names, fmt.Sprintf("r@%d.service", i+1))
	}
	c.mustRun(append([]string{"start"}, names...)...)
	text("new")
	changed := make(chan error, 1)
	go func() {
		_, err := c.run(append([]string{"start", "--replace", "--timeout", "3m"}, names...)...)
		changed <- err
	}()
	fewest, kills := len(names), 0
	for begun := time.Now(); ; {
		select {
		case err := <-changed:
			if err != nil {
				// The machine that it talked to was killed under it.
				t.Logf("the command saw: %v", err)
			}
			c.until(90*time.Second, "all have the new text", func() error {
				n := 0
				for _, lines := range c.notes("/var/tmp/rolled", all...) {
					n += strings.Count(strings.Join(lines, " "), "new-")
				}
				if n < len(names) {
					return fmt.Errorf("%d of %d", n, len(names))
				}
				return c.allActive(names)
			})
			if fewest < len(names)-1 {
				t.Errorf("only %d of %d ran at some time", fewest, len(names))
			}
			times := map[string]int{}
			for _, lines := range c.notes("/var/tmp/rolled", all...) {
				for _, l := range lines {
					times[l]++
				}
			}
			for l, n := range times {
				if n != 1 || len(times) != 2*len(names) {
					t.Errorf("%s was started %d times: %v", l, n, times)
				}
			}
			c.mustRun(append([]string{"destroy"}, names...)...)
			return
		default:
			// One after the other, each with the time to be of use in between.
			if kills < 6 && time.Since(begun) > time.Duration(kills)*5*time.Second {
				c.in(all[kills%3], "systemctl kill --signal=KILL plasmidd")
				kills++
			}
			fewest = min(fewest, len(c.running("r@", all...)))
		}
	}
}
