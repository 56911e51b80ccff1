// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

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

// runOpenRegistry lets everybody do everything, and keeps what is registered for an hour: with policies it takes minutes
// to fill it with as many endpoints as benchmarks want, and the first of them expire meanwhile.
func runOpenRegistry(ctx context.Context, s *settings, id *identity) error {
	registry := memory.NewServer(ctx, id.token,
		memory.WithDefaultExpiration(time.Hour),
		memory.WithDialOptions(id.dialOptions()...),
	)
	server := id.server()
	registry.Register(server)
	return serve(ctx, server, s.listenOn, unregistered)
}
