// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// process is a process by its number.
type process int

// Fields of /proc/PID/stat that follow the program's name (proc_pid_stat(5)).
const (
	state  = 0
	parent = 1
	began  = 19
)

func (p process) stat() ([]string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
	if err != nil {
		return nil, err
	}
	// The name is in parentheses and may hold anything, spaces and parentheses too.
	text := string(content)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= began {
		return nil, errors.New("/proc has no such line")
	}
	return fields, nil
}

// began is when it has started, in ticks since the machine has.
func (p process) began() (string, error) {
	fields, err := p.stat()
	if err != nil {
		return "", err
	}
	return fields[began], nil
}

// lives tells whether it has not ended. One that has may wait for its parent's attention for a while.
func (p process) lives() bool {
	fields, err := p.stat()
	return err == nil && fields[state] != "Z" && fields[state] != "X"
}

func (p process) parent() process {
	fields, err := p.stat()
	if err != nil {
		return 0
	}
	number, err := strconv.Atoi(fields[parent])
	if err != nil {
		return 0
	}
	return process(number)
}
