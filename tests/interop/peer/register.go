// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/grpc"

	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	"github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/registry/common/sendfd"
)

// toRegister is how long a registration, and its end, may take.
const toRegister = 5 * time.Second

// registries are the registries behind a manager, for those who look up and register there.
type registries struct {
	services  registryapi.NetworkServiceRegistryClient
	endpoints registryapi.NetworkServiceEndpointRegistryClient
}

func newRegistries(ctx context.Context, manager *url.URL, id *identity, passing registryapi.NetworkServiceEndpointRegistryClient) *registries {
	policies := authorize.WithPolicies(commonPolicies, registryPolicies, clientPolicies)
	options := []registryclient.Option{
		registryclient.WithClientURL(manager),
		registryclient.WithDialOptions(append(id.patient(), grpc.WithBlock())...),
		registryclient.WithAuthorizeNSRegistryClient(authorize.NewNetworkServiceRegistryClient(policies)),
		registryclient.WithAuthorizeNSERegistryClient(authorize.NewNetworkServiceEndpointRegistryClient(policies)),
		registryclient.WithNSEAdditionalFunctionality(passing),
	}
	return &registries{
		services:  registryclient.NewNetworkServiceRegistryClient(ctx, options...),
		endpoints: registryclient.NewNetworkServiceEndpointRegistryClient(ctx, options...),
	}
}

// register makes us known as a provider of these services, and answers with what ends that.
func register(ctx context.Context, s *settings, id *identity, services []string, hasServices bool) (func(), error) {
	// The chain outlives the signal that ends us.
	chain, end := context.WithCancel(context.WithoutCancel(ctx))
	to := newRegistries(chain, s.connectTo, id, sendfd.NewNetworkServiceEndpointRegistryClient())
	registered, err := to.register(ctx, s, services, hasServices)
	if err != nil {
		end()
		return nil, fmt.Errorf("cannot register %s: %w", s.name, err)
	}
	return func() {
		defer end()
		call, cancel := context.WithTimeout(chain, toRegister)
		defer cancel()
		if _, err := to.endpoints.Unregister(call, registered); err != nil {
			fmt.Printf("%s is still registered: %v\n", s.name, err)
		}
	}, nil
}

func (to *registries) register(ctx context.Context, s *settings, services []string, hasServices bool) (*registryapi.NetworkServiceEndpoint, error) {
	call, cancel := context.WithTimeout(ctx, toRegister)
	defer cancel()
	endpoint := &registryapi.NetworkServiceEndpoint{
		Name:                 s.name,
		NetworkServiceNames:  services,
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{},
		Url:                  s.listenOn[0].String(),
	}
	if s.public != nil {
		endpoint.Url = s.public.String()
	}
	for _, service := range services {
		endpoint.NetworkServiceLabels[service] = &registryapi.NetworkServiceLabels{}
		if !hasServices {
			continue
		}
		if _, err := to.services.Register(call, &registryapi.NetworkService{Name: service, Payload: s.payload}); err != nil {
			return nil, fmt.Errorf("service %s: %w", service, err)
		}
	}
	return to.endpoints.Register(call, endpoint)
}
