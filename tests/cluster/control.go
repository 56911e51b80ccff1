// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// apart are the namespaces of a node, and of the control plane.
const apart = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID

// control is the first process of a cluster's namespaces: the network between the nodes, the control plane, and one
// child a node. It ends, and with it the cluster, when one of them does.
func control(s settings) error {
	p, err := newPrograms(s.in("logs", "control"))
	if err != nil {
		return err
	}
	err = inOrder(
		makeControlHost,
		func() error { return startServer(s, p) },
		func() error { return startNodes(s, p) },
		func() error { return startControllers(s, p) },
		func() error { return tellReady(s, p) },
		func() error { return p.reap(0) },
	)
	return errors.Join(err, write(s.in("failed"), err.Error()))
}

func makeControlHost() error {
	return inOrder(
		func() error { return syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "") },
		func() error { return syscall.Mount("proc", "/proc", "proc", 0, "") },
		func() error { return syscall.Mount("run", "/run", "tmpfs", 0, "mode=755") },
		func() error { return syscall.Sethostname([]byte("control")) },
		func() error { return execute("ip", "link", "set", "lo", "up") },
		func() error { return execute("ip", "link", "add", "nodes", "up", "type", "bridge") },
		func() error { return execute("ip", "address", "add", controlAddress+"/24", "dev", "nodes") },
	)
}

func startServer(s settings, p *programs) error {
	etcd := func() *exec.Cmd {
		return exec.Command(s.program("kube"), "etcd",
			"--data-dir", s.in("etcd"), "--unsafe-no-fsync",
			"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
			"--listen-peer-urls", "http://127.0.0.1:2380")
	}
	if err := p.keep("etcd", etcd); err != nil {
		return err
	}
	return p.keep("kube-apiserver", func() *exec.Cmd { return apiServer(s) })
}

func apiServer(s settings) *exec.Cmd {
	file := func(name string) string { return s.in("pki", name) }
	return exec.Command(s.program("kube"), "kube-apiserver",
		"--etcd-servers", "http://127.0.0.1:2379",
		"--advertise-address", controlAddress,
		"--service-cluster-ip-range", services,
		"--tls-cert-file", file("kube-apiserver.crt"), "--tls-private-key-file", file("kube-apiserver.key"),
		"--client-ca-file", file("ca.crt"),
		"--kubelet-certificate-authority", file("ca.crt"),
		"--kubelet-client-certificate", file("kube-apiserver.crt"),
		"--kubelet-client-key", file("kube-apiserver.key"),
		// Nobody here resolves names of nodes.
		"--kubelet-preferred-address-types", "InternalIP",
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", file("tokens.pub"),
		"--service-account-signing-key-file", file("tokens.key"),
		"--authorization-mode", "Node,RBAC",
		"--enable-admission-plugins", "NodeRestriction",
		// Webhooks are called at the addresses of their pods, since there is no kube-proxy beside this program.
		"--enable-aggregator-routing",
		"--allow-privileged")
}

// startNodes starts the nodes. One whose first process is killed has lost its power: it comes again, with its files.
func startNodes(s settings, p *programs) error {
	for number := 1; number <= s.nodes; number++ {
		var began time.Time
		start := func() error {
			if time.Since(began) < briefly {
				return errors.New("it does not start")
			}
			began = time.Now()
			return startNode(s, p, number)
		}
		p.again[nodeName(number)] = start
		if err := start(); err != nil {
			return err
		}
	}
	return nil
}

// startNode starts a node, and gives it its cable to the bridge.
func startNode(s settings, p *programs, number int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	name := nodeName(number)
	// A machine that starts has no control groups, and a kubelet takes those that it finds for containers.
	if err := s.removeGroups(name); err != nil {
		return err
	}
	cabled, cable, err := os.Pipe()
	if err != nil {
		return err
	}
	command := exec.Command(self, "node", fmt.Sprint(number))
	command.Stdin = cabled
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: apart}
	if err := p.start(name, command); err != nil {
		return err
	}
	if _, err := net.InterfaceByName(name); err == nil {
		// The kernel takes a moment to forget the other end, which was in the node's namespace.
		_ = execute("ip", "link", "delete", name)
	}
	return errors.Join(
		execute("ip", "link", "add", name, "master", "nodes", "up",
			"type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(command.Process.Pid)),
		execute("ip", "route", "replace", podsOf(number), "via", nodeAddress(number)),
		cabled.Close(),
		// That the pipe is closed tells the node that its cable is there.
		cable.Close())
}

// startControllers starts what ends when it finds an API without its own first roles.
func startControllers(s settings, p *programs) error {
	api, err := newAPI(s)
	if err != nil {
		return err
	}
	if err := p.await("the API", func() error { return api.get("/readyz", nil) }); err != nil {
		return err
	}
	kube, file := s.program("kube"), func(name string) string { return s.in("pki", name) }
	dns := exec.Command(s.program("coredns"), "-conf", s.in("Corefile"))
	return inOrder(
		func() error {
			// It starts 40 controllers one after the other, with a handful of requests each. At its usual 20 requests a
			// second nobody could make a pod for six seconds.
			return p.start("kube-controller-manager", exec.Command(kube, "kube-controller-manager",
				"--kubeconfig", file("kube-controller-manager.conf"),
				"--root-ca-file", file("ca.crt"),
				"--service-account-private-key-file", file("tokens.key"),
				"--cluster-signing-cert-file", file("ca.crt"), "--cluster-signing-key-file", file("ca.key"),
				"--use-service-account-credentials",
				"--kube-api-qps", "500", "--kube-api-burst", "1000",
				"--leader-elect=false"))
		},
		func() error {
			return p.start("kube-scheduler", exec.Command(kube, "kube-scheduler",
				"--kubeconfig", file("kube-scheduler.conf"), "--leader-elect=false"))
		},
		func() error { return s.configure("Corefile", s.in("Corefile"), nil) },
		func() error { return p.start("coredns", dns) },
	)
}

// tellReady tells "up", by a file, that pods can be made: the nodes are ready, and there is the service account without
// which pods are refused.
func tellReady(s settings, p *programs) error {
	api, err := newAPI(s)
	if err != nil {
		return err
	}
	return inOrder(
		func() error { return p.await("the nodes", func() error { return api.nodesAreReady(s.nodes) }) },
		func() error {
			account := "/api/v1/namespaces/default/serviceaccounts/default"
			return p.await("the first service account", func() error { return api.get(account, nil) })
		},
		func() error { return write(s.in("ready"), "") },
	)
}

// api is the API of the cluster, as its administrator sees it.
type api struct{ client http.Client }

func newAPI(s settings) (*api, error) {
	us, err := tls.LoadX509KeyPair(s.in("pki", "admin.crt"), s.in("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(s.in("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: known, Certificates: []tls.Certificate{us}}}
	return &api{http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

func (a *api) get(path string, into any) error {
	answer, err := a.client.Get("https://" + controlAddress + ":6443" + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s: %s", path, answer.Status, body)
	case into == nil:
		return nil
	}
	return json.Unmarshal(body, into)
}

func (a *api) nodesAreReady(wanted int) error {
	var nodes struct {
		Items []struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
	}
	if err := a.get("/api/v1/nodes", &nodes); err != nil {
		return err
	}
	ready, why := 0, ""
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			switch {
			case condition.Type != "Ready":
			case condition.Status == "True":
				ready++
			default:
				why = condition.Message
			}
		}
	}
	if ready < wanted {
		return fmt.Errorf("%d of %d are ready: %s", ready, wanted, why)
	}
	return nil
}
