// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/networkservicemesh/sdk/pkg/registry/chains/memory"
	"github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
)

// Where the SDK keeps the policies that its programs ask unless told otherwise.
const (
	commonPolicies   = "etc/nsm/opa/common/.*.rego"
	registryPolicies = "etc/nsm/opa/registry/.*.rego"
	serverPolicies   = "etc/nsm/opa/server/.*.rego"
	clientPolicies   = "etc/nsm/opa/client/.*.rego"
)

// runRegistry keeps registrations in memory.
func runRegistry(ctx context.Context, s *settings, id *identity) error {
	policies := authorize.WithPolicies(commonPolicies, registryPolicies, serverPolicies)
	registry := memory.NewServer(ctx, id.token,
		memory.WithAuthorizeNSRegistryServer(authorize.NewNetworkServiceRegistryServer(policies)),
		memory.WithAuthorizeNSERegistryServer(authorize.NewNetworkServiceEndpointRegistryServer(policies)),
		memory.WithDialOptions(id.dialOptions()...),
	)
	server := id.server()
	registry.Register(server)
	return serve(ctx, server, s.listenOn, unregistered)
}
