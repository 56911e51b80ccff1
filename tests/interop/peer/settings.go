// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

// settings is what the roles read, each what concerns it.
type settings struct {
	name     string
	listenOn []*url.URL
	// public is where others find us, if not where we listen: somebody is between.
	public    *url.URL
	connectTo *url.URL
	registry  *url.URL
	services  []string
	wanted    *url.URL
	prefix    *net.IPNet
	payload   string
	// hasServices says whether the services are ours to register, too.
	hasServices   bool
	tunnelIP      net.IP
	tokenLifetime time.Duration
	// requestTimeout is how long a client gives a request, and a close.
	requestTimeout time.Duration
}

// variable is the value of NSM_name, or what stands in for it.
func variable(name, otherwise string) string {
	if value := os.Getenv("NSM_" + name); value != "" {
		return value
	}
	return otherwise
}

// read reads the settings from the environment.
func read(role string) (*settings, error) {
	s := &settings{
		name:        variable("NAME", role),
		services:    strings.Split(variable("SERVICE_NAMES", "icmp-responder"), ","),
		payload:     variable("PAYLOAD", "ETHERNET"),
		hasServices: variable("REGISTER_SERVICE", "true") == "true",
		tunnelIP:    net.ParseIP(variable("TUNNEL_IP", "")),
	}
	for _, text := range strings.Split(variable("LISTEN_ON", "unix:///var/lib/networkservicemesh/"+role+".sock"), ",") {
		listenOn, err := parseURL(text)
		if err != nil {
			return nil, err
		}
		s.listenOn = append(s.listenOn, listenOn)
	}
	if text := variable("PUBLIC_URL", ""); text != "" {
		public, err := parseURL(text)
		if err != nil {
			return nil, err
		}
		s.public = public
	}
	urls := map[string]**url.URL{"CONNECT_TO": &s.connectTo, "REGISTRY_URL": &s.registry, "NETWORK_SERVICES": &s.wanted}
	for name, field := range urls {
		parsed, err := parseURL(variable(name, "unix:///var/lib/networkservicemesh/nsm.io.sock"))
		if err != nil {
			return nil, err
		}
		*field = parsed
	}
	var err error
	if s.tokenLifetime, err = time.ParseDuration(variable("MAX_TOKEN_LIFETIME", "10m")); err != nil {
		return nil, err
	}
	if s.requestTimeout, err = time.ParseDuration(variable("REQUEST_TIMEOUT", "15s")); err != nil {
		return nil, err
	}
	_, s.prefix, err = net.ParseCIDR(variable("CIDR_PREFIX", "172.16.0.0/16"))
	return s, err
}

func parseURL(text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if parsed.Scheme == "" {
		return nil, fmt.Errorf("%q has no scheme, like unix:///run/nsm.sock or tcp://127.0.0.1:5001", text)
	}
	return parsed, nil
}
