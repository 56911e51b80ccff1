// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// patience is how long anything of a cluster may take to come up on a busy machine.
const patience = 3 * time.Minute

// briefly is how long a program has run at most that cannot start.
const briefly = 2 * time.Second

// programs are what the first process of a PID namespace has started and takes care of, beside the orphans that become
// its children. They run for ever: one that ends is an error, unless it is to be started again.
type programs struct {
	logs  string
	named map[int]string
	again map[string]func() error
}

func newPrograms(logs string) (*programs, error) {
	p := &programs{logs: logs, named: map[int]string{}, again: map[string]func() error{}}
	return p, os.MkdirAll(logs, 0o755)
}

// keep starts a program, and again whenever it has ended, as the system of a node does; but not if it cannot run.
func (p *programs) keep(name string, command func() *exec.Cmd) error {
	began := time.Now()
	p.again[name] = func() error {
		if time.Since(began) < briefly {
			return fmt.Errorf("%s has ended at once", name)
		}
		began = time.Now()
		return p.start(name, command())
	}
	return p.start(name, command())
}

// start starts a program whose output goes into a log of its own.
func (p *programs) start(name string, command *exec.Cmd) error {
	log, err := os.OpenFile(filepath.Join(p.logs, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	p.named[command.Process.Pid] = name
	return nil
}

// reap takes care of a child that has ended, and of all others at once. With WNOHANG it does not wait for one.
func (p *programs) reap(flags int) error {
	for {
		child, err := syscall.Wait4(-1, nil, flags, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case child == 0:
			return nil
		case p.named[child] != "":
			if err := p.ended(child); err != nil {
				return err
			}
		}
	}
}

// ended starts a program again that has ended, or tells its last words.
func (p *programs) ended(child int) error {
	name := p.named[child]
	delete(p.named, child)
	why := errors.New("it is to run as long as the cluster does")
	if again := p.again[name]; again != nil {
		if why = again(); why == nil {
			return nil
		}
	}
	return fmt.Errorf("%s has ended: %w; its last words:\n%s", name, why, p.lastWords(name))
}

func (p *programs) lastWords(name string) string {
	log, err := os.ReadFile(filepath.Join(p.logs, name+".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}

// await looks again and again until something is ready, while every program lives.
func (p *programs) await(what string, ready func() error) error {
	var why error
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if err := p.reap(syscall.WNOHANG); err != nil && err != syscall.ECHILD {
			return err
		}
		if why = ready(); why == nil {
			return nil
		}
	}
	return fmt.Errorf("gave up waiting for %s: %w", what, why)
}

// execute runs a command to its end. What it printed is told only if it failed.
func execute(name string, arguments ...string) error {
	printed, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(arguments, " "), err, printed)
	}
	return nil
}

// inOrder runs steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
