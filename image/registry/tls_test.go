package registry

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// otherAuthority is a certificate that has signed nothing.
const otherAuthority = `-----BEGIN CERTIFICATE-----
MIIBdjCCAR2gAwIBAgIUT50/b3+dlypS9+xv8Qlf9n9Kx+MwCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFb3RoZXIwIBcNMjYxMTI0MTAwOTIzWhgPMjEyNjEwMzExMDA5
MjNaMBAxDjAMBgNVBAMMBW90aGVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
OT0NjgXzjyhJMksNHh4rObNmAC6szDAd71GjQOVoXB9AwwDNkjrr5ct81m/K8YnN
oWccC5WyNMcQQFclQ7bueqNTMFEwHQYDVR0OBBYEFDSmpa5QpxG5siN59+SKhgQL
E0I8MB8GA1UdIwQYMBaAFDSmpa5QpxG5siN59+SKhgQLE0I8MA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgfEr49xSXIFS1HiLdcaQv6UH6hgEv8Ctc
sHRSGHCXyoMCIDizwZdxPQCcDEP35+vA7mM3Khl93jMdp4HNEn/gEDOr
-----END CERTIFICATE-----
`

// TestCertificates: Docker's folder says whom to trust for which registry. For this machine's own nothing need be said.
func TestCertificates(t *testing.T) {
	plain := newServer(t)
	s := httptest.NewTLSServer(plain.Config.Handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer s.Close()
	plain.remoteImage(t, "x", "latest", here().Architecture, layer(t, "a", nil))
	host := strings.TrimPrefix(s.URL, "https://")
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	write := func(name, text string) string {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, host), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, host, name), []byte(text), 0o644))
		return dir
	}
	pull := func(dir string) error {
		c := newClient(t, Options{CertDirs: []string{dir}})
		return errOf(c.Pull(context.Background(), newStore(t), host+"/x", PullOptions{}))
	}
	must(t, pull(t.TempDir()))
	must(t, pull(write("ca.crt", certificate)))
	if err := pull(write("ca.crt", "nothing")); err == nil || !strings.HasSuffix(err.Error(), "ca.crt has none") {
		t.Error(err)
	}
	if err := pull(write("client.cert", certificate)); err == nil || !strings.Contains(err.Error(), "client.key: no such file") {
		t.Error(err)
	}
	if err := pull(write("ca.crt", otherAuthority)); !errors.Is(err, ErrCertificate) {
		t.Error(err)
	}
	b, err := newClient(t, Options{Insecure: true}).base("registry.invalid", "443")
	must(t, err)
	if !b.TLSClientConfig.InsecureSkipVerify {
		t.Error("--tls-verify=false looks at certificates")
	}
	b, err = newClient(t, Options{}).base("registry.invalid", "443")
	must(t, err)
	if b.TLSClientConfig.InsecureSkipVerify || b.Proxy == nil || !b.DisableCompression {
		t.Error("a registry elsewhere is trusted blindly, or not reached through the proxy")
	}
}
