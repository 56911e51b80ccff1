// SPDX-License-Identifier: Apache-2.0

package main

import (
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

// programs are what the first process of a PID namespace has started and takes care of, beside the orphans that become
// its children. They run for ever: one that ends is an error.
type programs struct {
	logs  string
	named map[int]string
}

func newPrograms(logs string) (*programs, error) {
	return &programs{logs: logs, named: map[int]string{}}, os.MkdirAll(logs, 0o755)
}

// start starts a program whose output goes into a log of its own.
func (p *programs) start(name string, command *exec.Cmd) error {
	log, err := os.Create(filepath.Join(p.logs, name+".log"))
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
			return fmt.Errorf("%s has ended; its last words:\n%s", p.named[child], p.lastWords(p.named[child]))
		}
	}
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
