// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// validity is how long the certificates of a cluster are good: longer than anybody keeps one.
const validity = 30 * 24 * time.Hour

// pki is the authority of one cluster, and the folder that its keys, certificates and kubeconfig files go to.
type pki struct {
	s           settings
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// who is somebody whom the authority knows: a user or group of Kubernetes, and the names that TLS finds it by.
type who struct {
	file   string
	user   string
	group  string
	names  []string
	config bool // whether it is a client with a kubeconfig file
}

// writePKI makes everything that proves who is who in a cluster.
func (s settings) writePKI() error {
	if err := os.MkdirAll(s.in("pki"), 0o700); err != nil {
		return err
	}
	authority, err := s.newAuthority()
	if err != nil {
		return err
	}
	known := []who{
		{"admin", "admin", "system:masters", nil, true},
		{"kube-controller-manager", "system:kube-controller-manager", "", nil, true},
		{"kube-scheduler", "system:kube-scheduler", "", nil, true},
		{"kube-proxy", "system:kube-proxy", "", nil, true},
		// It is a client of kubelets, too.
		{"kube-apiserver", "kube-apiserver", "system:masters", []string{
			controlAddress, firstService, "127.0.0.1", "localhost",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		}, false},
	}
	for number := 1; number <= s.nodes; number++ {
		name := nodeName(number)
		known = append(known, who{name, "system:node:" + name, "system:nodes", []string{name, nodeAddress(number)}, true})
	}
	for _, one := range known {
		if err := authority.issue(one); err != nil {
			return err
		}
	}
	return authority.writeTokenKey()
}

func (s settings) newAuthority() (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(who{user: "cluster"})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage |= x509.KeyUsageCertSign
	authority := &pki{s, template, key}
	return authority, authority.write("ca", template, key)
}

func newTemplate(one who) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: one.user},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	if one.group != "" {
		template.Subject.Organization = []string{one.group}
	}
	for _, name := range one.names {
		if address := net.ParseIP(name); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template, nil
}

// issue writes the key and the certificate of somebody, and the kubeconfig file of a client.
func (p *pki) issue(one who) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := newTemplate(one)
	if err != nil {
		return err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	if err := p.write(one.file, template, key); err != nil || !one.config {
		return err
	}
	// Paths in it are relative to its folder.
	return write(p.path(one.file+".conf"), fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "https://%s:6443", certificate-authority: ca.crt}}]
users: [{name: us, user: {client-certificate: %[2]s.crt, client-key: %[2]s.key}}]
contexts: [{name: cluster, context: {cluster: cluster, user: us}}]
current-context: cluster
`, controlAddress, one.file))
}

// writeTokenKey makes the key by which tokens of service accounts are signed.
func (p *pki) writeTokenKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := p.writePEM("tokens.pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return p.writeKey("tokens.key", key)
}

func (p *pki) write(file string, template *x509.Certificate, key *ecdsa.PrivateKey) error {
	signed, err := x509.CreateCertificate(rand.Reader, template, p.certificate, key.Public(), p.key)
	if err != nil {
		return err
	}
	if err := p.writePEM(file+".crt", "CERTIFICATE", signed); err != nil {
		return err
	}
	return p.writeKey(file+".key", key)
}

func (p *pki) writeKey(file string, key *ecdsa.PrivateKey) error {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return p.writePEM(file, "PRIVATE KEY", private)
}

func (p *pki) writePEM(file, kind string, content []byte) error {
	return os.WriteFile(p.path(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600)
}

func (p *pki) path(file string) string {
	return p.s.in("pki", file)
}
