// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"

	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/networkservice/utils/metadata"
)

const (
	// wireguardPort is the port of all tunnels, as in the reference.
	wireguardPort = 51820
	// wireguardMTU is what fits into a tunnel over an underlay of 1500 bytes.
	wireguardMTU = 1440
)

// secretKey is for the key of a connection's tunnel.
type secretKey struct{}

// secret is the key of the tunnel at one side of a connection, which stays as long as that.
func secret(ctx context.Context, isClient bool) (*ecdh.PrivateKey, error) {
	fresh, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	kept, _ := metadata.Map(ctx, isClient).LoadOrStore(secretKey{}, fresh)
	return kept.(*ecdh.PrivateKey), nil
}

func publicOf(key *ecdh.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
}

// narrow lowers the MTU of a connection to what its tunnel carries.
func narrow(connection *networkservice.Connection) {
	if connection.GetContext() == nil {
		connection.Context = new(networkservice.ConnectionContext)
	}
	if mtu := connection.GetContext().GetMTU(); mtu == 0 || mtu > wireguardMTU {
		connection.Context.MTU = wireguardMTU
	}
}

// wireguardServer answers the offers of other nodes.
type wireguardServer struct {
	ip net.IP
}

func (w *wireguardServer) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	key, err := secret(ctx, false)
	if err != nil {
		return nil, err
	}
	wireguard.ToMechanism(request.GetConnection().GetMechanism()).
		SetDstIP(w.ip).SetDstPort(wireguardPort).SetDstPublicKey(publicOf(key))
	narrow(request.GetConnection())
	return next.Server(ctx).Request(ctx, request)
}

func (w *wireguardServer) Close(ctx context.Context, connection *networkservice.Connection) (*emptypb.Empty, error) {
	return next.Server(ctx).Close(ctx, connection)
}

// wireguardClient offers tunnels to other nodes.
type wireguardClient struct {
	ip net.IP
}

func (w *wireguardClient) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*networkservice.Connection, error) {
	if request.GetConnection().GetPayload() != payload.IP {
		return next.Client(ctx).Request(ctx, request, options...)
	}
	key, err := secret(ctx, true)
	if err != nil {
		return nil, err
	}
	offer := &networkservice.Mechanism{Cls: cls.REMOTE, Type: wireguard.MECHANISM, Parameters: map[string]string{}}
	wireguard.ToMechanism(offer).SetSrcIP(w.ip).SetSrcPort(wireguardPort).SetSrcPublicKey(publicOf(key))
	request.MechanismPreferences = append(request.GetMechanismPreferences(), offer)
	narrow(request.GetConnection())
	return next.Client(ctx).Request(ctx, request, options...)
}

func (w *wireguardClient) Close(ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption) (*emptypb.Empty, error) {
	return next.Client(ctx).Close(ctx, connection, options...)
}

// keys are what makes a tunnel private: our own key, and what we know the other end by.
type keys struct {
	own   *ecdh.PrivateKey
	other []byte
}

// newSecretTunnel plans a tunnel from the mechanism that both nodes have filled; the one that is asked is at its
// destination.
func newSecretTunnel(ctx context.Context, mechanism *wireguard.Mechanism, isAsked bool) (*tunnel, error) {
	t := &tunnel{local: mechanism.SrcIP(), remote: mechanism.DstIP(), port: int(mechanism.DstPort()), isAsked: isAsked}
	other := mechanism.DstPublicKey()
	if isAsked {
		t.local, t.remote, t.port = t.remote, t.local, int(mechanism.SrcPort())
		other = mechanism.SrcPublicKey()
	}
	key, err := secret(ctx, !isAsked)
	if err != nil {
		return nil, err
	}
	t.keys = &keys{own: key}
	if t.keys.other, err = base64.StdEncoding.DecodeString(other); err != nil || len(t.keys.other) != 32 {
		return nil, fmt.Errorf("%q is no key of the other end", other)
	}
	return t, nil
}
