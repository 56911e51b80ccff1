// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const groupsRoot = "/sys/fs/cgroup"

// hierarchies are the roots of control groups: one with version 2 alone, one a controller with version 1.
func hierarchies() []string {
	found, _ := filepath.Glob(groupsRoot + "/*/cgroup.procs")
	if isVersion2() {
		found = []string{groupsRoot + "/cgroup.procs"}
	}
	for i, file := range found {
		found[i] = filepath.Dir(file)
	}
	return found
}

func isVersion2() bool {
	_, err := os.Stat(groupsRoot + "/cgroup.controllers")
	return err == nil
}

// enterGroup puts this process, and so all that it starts, into the control group of a node's own programs. Beside that
// one kubelet makes those of pods.
func (s settings) enterGroup(node string) error {
	for _, hierarchy := range hierarchies() {
		group := hierarchy
		for _, name := range []string{s.group, node, "programs"} {
			if err := prepareFor(group, name); err != nil {
				return err
			}
			group = filepath.Join(group, name)
		}
		if err := write(filepath.Join(group, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
			return err
		}
	}
	return nil
}

// prepareFor makes the control group `name` in `parent`, so that it can have processes or groups.
func prepareFor(parent, name string) error {
	if isVersion2() {
		available, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		if err != nil {
			return err
		}
		enable := "+" + strings.Join(strings.Fields(string(available)), " +")
		if err := write(filepath.Join(parent, "cgroup.subtree_control"), enable); err != nil {
			return err
		}
	}
	group := filepath.Join(parent, name)
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if isVersion2() {
		return nil
	}
	// A new group of version 1 has no processors and no memory, and takes no process.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := errors.Join(err, write(filepath.Join(group, file), string(value))); err != nil {
			return err
		}
	}
	return nil
}

func write(file, content string) error {
	return os.WriteFile(file, []byte(content), 0o644)
}

// removeGroups removes what a cluster, or one host of it, has left of control groups. The kernel takes a moment to forget
// their processes.
func (s settings) removeGroups(host ...string) error {
	var trouble error
	for _, hierarchy := range hierarchies() {
		group := filepath.Join(append([]string{hierarchy, s.group}, host...)...)
		trouble = errors.Join(trouble, removeGroup(group))
	}
	return trouble
}

func removeGroup(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			err = errors.Join(err, removeGroup(filepath.Join(group, entry.Name())))
		}
	}
	if err != nil {
		return err
	}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := os.Remove(group)
		if err == nil || errors.Is(err, os.ErrNotExist) || time.Now().After(until) {
			return err
		}
	}
}
