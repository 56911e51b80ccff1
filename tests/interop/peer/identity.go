// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/edwarnicke/grpcfd"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/networkservicemesh/sdk/pkg/tools/spiffejwt"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// toIdentify is how long the Workload API may take to answer.
const toIdentify = 20 * time.Second

// identity is who we are to the others, as the Workload API at SPIFFE_ENDPOINT_SOCKET says it, now and after each
// rotation.
type identity struct {
	source *workloadapi.X509Source
	token  token.GeneratorFunc
}

func newIdentity(ctx context.Context, tokenLifetime time.Duration) (*identity, error) {
	wait, cancel := context.WithTimeout(ctx, toIdentify)
	defer cancel()
	source, err := workloadapi.NewX509Source(wait)
	if err != nil {
		return nil, fmt.Errorf("nobody says who we are at SPIFFE_ENDPOINT_SOCKET: %w", err)
	}
	return &identity{source: source, token: spiffejwt.TokenGeneratorFunc(source, tokenLifetime)}, nil
}

func (id *identity) close() {
	_ = id.source.Close()
}

// server makes a server that knows its callers and takes files from them.
func (id *identity) server() *grpc.Server {
	config := tlsconfig.MTLSServerConfig(id.source, id.source, tlsconfig.AuthorizeAny())
	config.NextProtos = []string{"h2"}
	return grpc.NewServer(grpc.Creds(grpcfd.TransportCredentials(credentials.NewTLS(config))))
}

// patient are the options of those who wait for a peer that is not ready.
func (id *identity) patient() []grpc.DialOption {
	return append(id.dialOptions(), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}

// dialOptions are for calls that carry our token and files.
func (id *identity) dialOptions() []grpc.DialOption {
	config := tlsconfig.MTLSClientConfig(id.source, id.source, tlsconfig.AuthorizeAny())
	return []grpc.DialOption{
		grpc.WithTransportCredentials(grpcfd.TransportCredentials(credentials.NewTLS(config))),
		grpc.WithDefaultCallOptions(grpc.PerRPCCredentials(token.NewPerRPCCredentials(id.token))),
		grpcfd.WithChainStreamInterceptor(),
		grpcfd.WithChainUnaryInterceptor(),
	}
}
