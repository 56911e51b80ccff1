// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// node is the first process of a node's namespaces.
func node(s settings, number int) error {
	name := nodeName(number)
	p, err := newPrograms(s.in("logs", name))
	if err != nil {
		return err
	}
	return inOrder(
		func() error { return syscall.Sethostname([]byte(name)) },
		func() error { return s.enterGroup(name) },
		func() error { return s.enterRoot(name) },
		func() error { return s.connect(number) },
		func() error { return s.startContainerd(p, number) },
		func() error { return s.startKubelet(p, number) },
		func() error { return p.reap(0) },
	)
}

// enterRoot makes what the node sees: the machine's files, below what the node has written itself.
func (s settings) enterRoot(name string) error {
	root := s.in(name, "root")
	for _, folder := range []string{"upper", "work", "root", "containerd", "kubelet"} {
		if err := os.MkdirAll(s.in(name, folder), 0o755); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", s.in(name, "upper"), s.in(name, "work"))
	mounts := []struct {
		source, target, kind, options string
		flags                         uintptr
	}{
		{"overlay", "", "overlay", layers, 0},
		{"proc", "proc", "proc", "", 0},
		{"sysfs", "sys", "sysfs", "", 0},
		{groupsRoot, groupsRoot, "", "", syscall.MS_BIND | syscall.MS_REC},
		{"/dev", "dev", "", "", syscall.MS_BIND | syscall.MS_REC},
		{"run", "run", "tmpfs", "mode=755", 0},
		// Where these are other file systems than the machine's root.
		{s.state, s.state, "", "", syscall.MS_BIND},
		{s.programs, s.programs, "", "", syscall.MS_BIND},
		// An overlay cannot lie on another one, and containerd makes some.
		{s.in(name, "containerd"), "var/lib/containerd", "", "", syscall.MS_BIND},
		{s.in(name, "kubelet"), "var/lib/kubelet", "", "", syscall.MS_BIND},
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return err
	}
	for _, mount := range mounts {
		target := filepath.Join(root, mount.target)
		err := errors.Join(os.MkdirAll(target, 0o755),
			syscall.Mount(mount.source, target, mount.kind, mount.flags, mount.options))
		if err != nil {
			return fmt.Errorf("cannot mount %s on %s: %w", mount.source, target, err)
		}
	}
	return moveInto(root)
}

// moveInto makes a mounted folder the root, and forgets the old one.
func moveInto(root string) error {
	old := filepath.Join(root, "run", "old")
	return inOrder(
		func() error { return os.Mkdir(old, 0o700) },
		func() error { return syscall.PivotRoot(root, old) },
		func() error { return os.Chdir("/") },
		func() error { return syscall.Unmount("/run/old", syscall.MNT_DETACH) },
		func() error { return os.Remove("/run/old") },
		// What a pod mounts "bidirectionally" appears on its node, and so in other pods.
		func() error { return syscall.Mount("", "/", "", syscall.MS_SHARED|syscall.MS_REC, "") },
	)
}

// connect waits for the node's cable and gives it its addresses.
func (s settings) connect(number int) error {
	if _, err := io.ReadAll(os.Stdin); err != nil {
		return err
	}
	commands := [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", nodeAddress(number) + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		// Nobody is there to route, but without a route the kernel refuses addresses of services before it translates them.
		{"route", "add", "default", "via", controlAddress},
	}
	for other := 1; other <= s.nodes; other++ {
		if other != number {
			commands = append(commands, []string{"route", "add", podsOf(other), "via", nodeAddress(other)})
		}
	}
	for _, command := range commands {
		if err := execute("ip", command...); err != nil {
			return err
		}
	}
	return write("/proc/sys/net/ipv4/ip_forward", "1")
}

func (s settings) startContainerd(p *programs, number int) error {
	networks := s.in(nodeName(number), "cni")
	own := map[string]string{
		"PAUSE": pauseImage, "PLUGINS": pluginFolder(), "NETWORKS": networks, "PODS": podsOf(number),
	}
	config := s.in(nodeName(number), "containerd.toml")
	return inOrder(
		func() error { return s.configure("containerd.toml", config, own) },
		func() error { return s.configure("pods.conflist", filepath.Join(networks, "pods.conflist"), own) },
		func() error { return p.start("containerd", exec.Command("containerd", "--config", config)) },
		func() error {
			return p.await("containerd", func() error { return execute("ctr", "version") })
		},
		func() error {
			return execute("ctr", "--namespace", "k8s.io", "images", "import", s.program("pause.tar"))
		},
	)
}

func (s settings) startKubelet(p *programs, number int) error {
	name := nodeName(number)
	own := map[string]string{"NODE": name, "GROUP": "/" + filepath.Join(s.group, name)}
	kubelet, proxy := s.in(name, "kubelet.yaml"), s.in(name, "kube-proxy.yaml")
	return inOrder(
		func() error { return s.configure("kubelet.yaml", kubelet, own) },
		func() error { return s.configure("kube-proxy.yaml", proxy, own) },
		func() error {
			return p.start("kube-proxy", exec.Command(s.program("kube"), "kube-proxy", "--config", proxy))
		},
		func() error {
			return p.keep("kubelet", func() *exec.Cmd {
				return exec.Command(s.program("kube"), "kubelet",
					"--config", kubelet,
					"--kubeconfig", s.in("pki", name+".conf"),
					"--node-ip", nodeAddress(number))
			})
		},
	)
}

// pluginFolder is where the programs of CNI are.
func pluginFolder() string {
	for _, folder := range plugins {
		if _, err := os.Stat(filepath.Join(folder, "bridge")); err == nil {
			return folder
		}
	}
	return plugins[0]
}
