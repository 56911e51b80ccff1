// SPDX-License-Identifier: Apache-2.0

// Command coredns is CoreDNS with what a test cluster uses. Its module is its own, since in one with Kubernetes it
// would move many of Kubernetes' dependencies to versions that Kubernetes was never tested with.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/rewrite"
)

func main() {
	// A query meets the plugins in this order, whatever the Corefile's.
	dnsserver.Directives = []string{"errors", "cache", "rewrite", "hosts", "kubernetes", "forward"}
	coremain.Run()
}
