// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pauseImage is the image of the first process of every pod.
const pauseImage = "localhost/pause:1"

// up starts a cluster and waits until pods can be made.
func up(s settings) error {
	if _, err := os.Stat(s.state); err == nil {
		return fmt.Errorf("there is a cluster in %s already; end it first, by \"down\"", s.state)
	}
	if err := s.check(); err != nil {
		return err
	}
	if err := inOrder(s.writePKI, s.remember); err != nil {
		return err
	}
	log, err := os.Create(s.in("control.log"))
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	command := exec.Command(self, "control")
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: apart, Setsid: true}
	if err := command.Start(); err != nil {
		return errors.Join(fmt.Errorf("cannot make namespaces, which needs root with CAP_SYS_ADMIN: %w", err), os.RemoveAll(s.state))
	}
	first := process(command.Process.Pid)
	began, _ := first.began()
	if err := write(s.in("first"), fmt.Sprintf("%d %s", first, began)); err != nil {
		return err
	}
	// Its end would leave a zombie of ours.
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	return s.awaitReady(ended)
}

// check tells what is missing on this machine, all of it at once.
func (s settings) check() error {
	packages := map[string]string{
		"containerd": "containerd", "ctr": "containerd", "runc": "runc", "nft": "nftables", "ip": "iproute2",
		"nsenter": "util-linux", filepath.Join(pluginFolder(), "bridge"): "containernetworking-plugins",
		filepath.Join(pluginFolder(), "host-local"): "containernetworking-plugins",
	}
	var missing []error
	for program, from := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, fmt.Errorf("%s is not there: it comes with Debian's package %s", program, from))
		}
	}
	for _, program := range []string{"kube", "coredns", "pause.tar"} {
		if _, err := os.Stat(s.program(program)); err != nil {
			missing = append(missing, fmt.Errorf("%w: CLUSTER_PROGRAMS must be the folder with kube, coredns and pause.tar", err))
		}
	}
	if os.Geteuid() != 0 {
		missing = append(missing, errors.New("a cluster needs root: nodes mount file systems and make devices"))
	}
	return errors.Join(missing...)
}

func (s settings) awaitReady(ended <-chan error) error {
	for until := time.Now().Add(2 * patience); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(s.in("ready")); err == nil {
			return nil
		}
		select {
		case <-ended:
			why, err := os.ReadFile(s.in("failed"))
			return errors.Join(fmt.Errorf("the cluster has ended: %s; there is more in %s", why, s.in("logs")), err)
		default:
		}
	}
	return fmt.Errorf("the cluster is not ready; see %s", s.in("logs"))
}

// down ends a cluster and removes what it made. There may be none.
func down(s settings) error {
	if first, err := s.first(); err == nil {
		if err := syscall.Kill(int(first), syscall.SIGKILL); err != nil {
			return err
		}
		// The first process of a PID namespace ends after all others.
		for first.lives() {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err := s.removeGroups(); err != nil {
		return err
	}
	return os.RemoveAll(s.state)
}

func kubectl(s settings, arguments []string) error {
	first, err := s.first()
	if err != nil {
		return err
	}
	// The caller's files stay in sight. All clusters have the same address, by which kubectl knows what it has cached.
	// Told by variables, plug-ins know it, too, and no flag is in front of their names.
	known := []error{
		os.Setenv("KUBECONFIG", s.in("pki", "admin.conf")), os.Setenv("KUBECACHEDIR", s.in("kubectl")),
	}
	if err := errors.Join(known...); err != nil {
		return err
	}
	return become(first, []string{"--net"}, append([]string{s.program("kube"), "kubectl"}, arguments...))
}

func on(s settings, host string, command []string) error {
	there, err := s.host(host)
	if err != nil {
		return err
	}
	return become(there, []string{"--mount", "--net", "--ipc", "--uts", "--pid"}, command)
}

// become runs a command in place of this program, in namespaces of another process.
func become(target process, namespaces, command []string) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	return syscall.Exec(nsenter, enter(target, namespaces, command), os.Environ())
}

func enter(target process, namespaces, command []string) []string {
	line := append([]string{"nsenter", "--target", fmt.Sprint(target)}, namespaces...)
	return append(append(line, "--"), command...)
}

// load gives every node the images of archives.
func load(s settings, archives []string) error {
	var nodes sync.WaitGroup
	failures := make([]error, s.nodes)
	for i := range failures {
		nodes.Add(1)
		go func() {
			defer nodes.Done()
			for _, archive := range archives {
				failures[i] = errors.Join(failures[i], s.loadInto(nodeName(i+1), archive))
			}
		}()
	}
	nodes.Wait()
	return errors.Join(failures...)
}

func (s settings) loadInto(node, archive string) error {
	there, err := s.host(node)
	if err != nil {
		return err
	}
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	line := enter(there, []string{"--mount", "--net", "--pid"},
		[]string{"ctr", "--namespace", "k8s.io", "images", "import", "-"})
	command := exec.Command(line[0], line[1:]...)
	command.Stdin = file
	if printed, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not take %s: %w\n%s", node, archive, err, printed)
	}
	return nil
}

// first is the first process of the cluster, if it lives.
func (s settings) first() (process, error) {
	content, err := os.ReadFile(s.in("first"))
	if err != nil {
		return 0, fmt.Errorf("there is no cluster in %s", s.state)
	}
	var first process
	var began string
	if _, err := fmt.Sscan(string(content), &first, &began); err != nil {
		return 0, err
	}
	// Its number may be another one's by now.
	if now, err := first.began(); err != nil || now != began || !first.lives() {
		return 0, fmt.Errorf("the cluster in %s has ended; see %s", s.state, s.in("logs"))
	}
	return first, nil
}

// host is the first process of a host of the cluster.
func (s settings) host(name string) (process, error) {
	first, err := s.first()
	if err != nil || name == "control" {
		return first, err
	}
	number, isNode := strings.CutPrefix(name, "node")
	others, _ := filepath.Glob("/proc/[0-9]*")
	for _, other := range others {
		pid, _ := strconv.Atoi(filepath.Base(other))
		if !isNode || process(pid).parent() != first {
			continue
		}
		line, _ := os.ReadFile(other + "/cmdline")
		if bytes.HasSuffix(line, []byte("\x00node\x00"+number+"\x00")) {
			return process(pid), nil
		}
	}
	return 0, fmt.Errorf("the cluster has no host %q: there are control and %s to %s", name, nodeName(1), nodeName(s.nodes))
}
