// SPDX-License-Identifier: Apache-2.0

package main

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Addresses exist in the namespaces of a cluster only, so that those of all clusters are the same. They are of the range
// that carriers share (RFC 6598), which no network of pods or of a mesh's wires uses.
const (
	controlAddress = "100.64.0.1"
	services       = "100.66.0.0/16"
	firstService   = "100.66.0.1"
	allPods        = "100.65.0.0/16"
)

// mostNodes is how many nodes the addresses are enough for.
const mostNodes = 200

// plugins are the folders where the programs of CNI may be: Debian's, and everybody else's.
var plugins = []string{"/usr/lib/cni", "/opt/cni/bin"}

//go:embed config
var config embed.FS

// settings are the same for every process of a cluster; they come from the environment.
type settings struct {
	programs string // the folder with kube, coredns and pause.tar
	state    string // the folder of this cluster: "down" removes it
	group    string // the name of its control group
	nodes    int
}

func settingsFrom(variable func(string) string) (settings, error) {
	s := settings{
		programs: variable("CLUSTER_PROGRAMS"),
		state:    variable("CLUSTER_STATE"),
		group:    variable("CLUSTER_GROUP"),
		nodes:    2,
	}
	if !filepath.IsAbs(s.state) {
		return s, fmt.Errorf("CLUSTER_STATE must be the absolute path of a folder; it is %q", s.state)
	}
	if s.group == "" || s.group != filepath.Base(s.group) || s.group[0] == '.' {
		return s, fmt.Errorf("CLUSTER_GROUP must be the name of a control group; it is %q", s.group)
	}
	if nodes := variable("CLUSTER_NODES"); nodes != "" {
		var err error
		if s.nodes, err = strconv.Atoi(nodes); err != nil || s.nodes < 1 || s.nodes > mostNodes {
			return s, fmt.Errorf("CLUSTER_NODES must be a number from 1 to %d; it is %q", mostNodes, nodes)
		}
	}
	return s, nil
}

// remember writes down what later commands need to know.
func (s settings) remember() error {
	return write(s.in("settings"), fmt.Sprintf("%d %s", s.nodes, s.programs))
}

// recall reads that.
func (s settings) recall() (settings, error) {
	content, err := os.ReadFile(s.in("settings"))
	if err != nil {
		return s, fmt.Errorf("there is no cluster in %s", s.state)
	}
	nodes, programs, _ := strings.Cut(string(content), " ")
	s.programs = programs
	s.nodes, err = strconv.Atoi(nodes)
	return s, err
}

// in is the path of something of this cluster.
func (s settings) in(elements ...string) string {
	return filepath.Join(append([]string{s.state}, elements...)...)
}

func (s settings) program(name string) string {
	return filepath.Join(s.programs, name)
}

func nodeName(number int) string    { return fmt.Sprintf("node%d", number) }
func nodeAddress(number int) string { return fmt.Sprintf("100.64.0.%d", 10+number) }
func podsOf(number int) string      { return fmt.Sprintf("100.65.%d.0/24", number) }

// configure writes a file of the folder config, with what is the cluster's or the node's own in it.
func (s settings) configure(file, to string, own map[string]string) error {
	content, err := config.ReadFile("config/" + file)
	if err != nil {
		return err
	}
	filled := os.Expand(string(content), func(name string) string {
		switch name {
		case "STATE":
			return s.state
		case "CONTROL":
			return controlAddress
		case "ALL_PODS":
			return allPods
		}
		return own[name]
	})
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, []byte(filled), 0o644)
}
