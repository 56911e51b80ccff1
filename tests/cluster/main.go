// SPDX-License-Identifier: Apache-2.0

// Command cluster runs a real Kubernetes cluster of several nodes on one Linux machine: etcd, Kubernetes and CoreDNS as
// programs that are built of their modules, containerd and runc as the machine has them. No container engine, no virtual
// machine, no registry of images.
//
//	cluster up                    starts one, and waits until pods can be made
//	cluster down                  ends it, and removes everything that it made
//	cluster kubectl ARGUMENT...   kubectl, as the administrator
//	cluster load FILE...          gives every node the images of OCI archives
//	cluster on HOST COMMAND...    runs a command on a node (node1, node2 ...) or where the control plane is (control)
//
// Everything of a cluster lives in a PID namespace, whose first process is this program as well. When it is killed, the
// kernel kills the rest. Each node is in mount, network, IPC, UTS and PID namespaces of its own, on a root of its own:
// an overlay on the machine's.
//
//	machine ── cluster control     bridge; etcd, kube-apiserver, kube-controller-manager, kube-scheduler, coredns
//	              ├─ cluster node 1    containerd, kubelet, kube-proxy, and pods
//	              └─ cluster node 2
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

var errUsage = errors.New("usage: cluster up | down | kubectl ARGUMENT... | load FILE... | on HOST COMMAND...")

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errUsage
	}
	// Programs for root may be where a user's shell does not look.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		return err
	}
	s, err := settingsFrom(os.Getenv)
	if err != nil {
		return err
	}
	command, rest := arguments[0], arguments[1:]
	switch {
	case command == "up" && len(rest) == 0:
		return up(s)
	case command == "down" && len(rest) == 0:
		return down(s)
	}
	if s, err = s.recall(); err != nil {
		return err
	}
	switch {
	case command == "kubectl":
		return kubectl(s, rest)
	case command == "load" && len(rest) > 0:
		return load(s, rest)
	case command == "on" && len(rest) > 1:
		return on(s, rest[0], rest[1:])
	case command == "control" && len(rest) == 0:
		return control(s)
	case command == "node" && len(rest) == 1:
		number, err := strconv.Atoi(rest[0])
		if err != nil {
			return err
		}
		return node(s, number)
	}
	return errUsage
}
