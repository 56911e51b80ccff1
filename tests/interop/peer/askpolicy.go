// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/networkservicemesh/api/pkg/api/networkservice"

	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/tools/monitorconnection/authorize"
	"github.com/networkservicemesh/sdk/pkg/tools/opa"
)

// policies are those that have been asked already, by their files.
var policies = map[string]*opa.AuthorizationPolicy{}

// askPolicy asks whether a policy lets pass what its servers and clients would show it.
func askPolicy(q *question) (a answer, err error) {
	policy, ok := policies[q.Policy]
	if !ok {
		if policy, err = opa.PolicyFromFile("etc/nsm/opa/" + q.Policy); err != nil {
			return a, err
		}
		policies[q.Policy] = policy
	}
	ctx := context.Background()
	if len(q.Certificate) > 0 {
		certificate, err := x509.ParseCertificate(q.Certificate)
		if err != nil {
			return a, err
		}
		state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}}
		ctx = peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{State: state}})
	}
	if err := policy.Check(ctx, shown(q)); err != nil {
		return answer{Error: err.Error()}, nil
	}
	return answer{Yes: true}, nil
}

// shown is what the policies of this folder are shown.
func shown(q *question) any {
	switch {
	case strings.HasPrefix(q.Policy, "registry/"):
		return registryauthorize.RegistryOpaInput{
			ResourceID:         q.Origin,
			ResourceName:       q.Name,
			ResourcePathIDsMap: q.Owners,
		}
	case strings.HasPrefix(q.Policy, "monitor/"):
		return authorize.MonitorOpaInput{
			SelectorConnectionIDs: q.Selected,
			ServiceSpiffeID:       q.Origin,
			SpiffeIDConnectionMap: q.Owners,
		}
	}
	path := &networkservice.Path{Index: q.Index}
	for _, token := range q.Tokens {
		path.PathSegments = append(path.PathSegments, &networkservice.PathSegment{Token: token})
	}
	return path
}
