// SPDX-License-Identifier: Apache-2.0

// Command kube is etcd, the programs of Kubernetes and kubectl in one file: a link takes long, and a node needs most of
// them. The first argument chooses: kube kubelet --config FILE.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// commands are the programs that are built on cobra, by the name that chooses them.
var commands = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kube-proxy":              proxy.NewProxyCommand,
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	// Each program reads its own arguments, and must not see which of us it is.
	os.Args = os.Args[1:]
	switch name := os.Args[0]; name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	default:
		command, isThere := commands[name]
		if !isThere {
			usage()
		}
		os.Exit(cli.Run(command()))
	}
}

func usage() {
	fmt.Fprint(os.Stderr, "usage: kube etcd|kubectl")
	for name := range commands {
		fmt.Fprint(os.Stderr, "|", name)
	}
	fmt.Fprintln(os.Stderr, " [ARGUMENT...]")
	os.Exit(2)
}
