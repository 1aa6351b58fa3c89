// Package registry brings images here and takes them elsewhere.
//
// A registry is a web server with three kinds of things, all of them below /v2/<repository>/:
//
//	GET manifests/<tag or digest>   a small text: the digests of a config and of layers, or, for an image that is there for
//	                                several platforms, an index with a manifest for each
//	GET blobs/<digest>              a config or a layer, also from some byte on
//	POST, PATCH, PUT                the same in the other direction; a blob that another repository of the same registry
//	                                has can be mounted from there and need not be sent
//
// Whoever has a digest can tell whether he was given the right thing, so it does not matter who gives it, and a registry may
// send its clients elsewhere for the blobs. Only for the step from a tag to a digest it has to be trusted, and for that there
// is TLS. Who wants something that not everybody may have is answered with a challenge, and gets a token for his password.
//
// The interface: [New] makes a client; [Client.Pull] puts an image into the store, [Client.Push] sends one; [Client.Tags] lists
// what a repository has; [Client.Login] and [Client.Logout] look after passwords, where Docker keeps them. Challenges, tokens and
// uploads are go-containerregistry's. Fetching is our own, since it has to go on where it has stopped.
//
// The limits: everything that comes from outside is bounded, in size, number and time, and every error is one line. Plain
// HTTP is for loopback, and for who asks for it.
//
// See the OCI distribution specification, and distribution.github.io/distribution/spec/auth/token.
package registry

import (
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options are for [New].
type Options struct {
	Insecure  bool     // take any certificate, and plain HTTP where there is no TLS
	UserAgent string   // what we call ourselves
	ConfigDir string   // the folder of Docker's config.json; empty: $DOCKER_CONFIG or ~/.docker
	CertDirs  []string // folders with a folder for each registry that has its own certificates; nil: Docker's

	// Stall is how long nothing at all may come, or be taken, before that counts as an error. Zero: a minute.
	Stall time.Duration
	// Pause is how long to wait before the second try; it doubles for each more. Zero: a quarter of a second.
	Pause time.Duration
}

// Client talks to registries.
type Client struct {
	o     Options
	mu    sync.Mutex
	bases map[string]*http.Transport // by host and port
}

// tries is how often something is tried, if what went wrong may pass.
const tries = 5

// New makes a client. It talks to nobody yet.
func New(o Options) *Client {
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Pause == 0 {
		o.Pause = time.Second / 4
	}
	if o.CertDirs == nil {
		o.CertDirs = []string{"/etc/docker/certs.d"}
		if dir, err := os.UserConfigDir(); err == nil && os.Geteuid() != 0 {
			o.CertDirs = append(o.CertDirs, filepath.Join(dir, "docker/certs.d"))
		}
	}
	return &Client{o: o, bases: map[string]*http.Transport{}}
}

// Close gives the connections back.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.bases {
		b.CloseIdleConnections()
	}
}

// base is the transport for a host, with the certificates that this host has.
func (c *Client) base(host, port string) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := host + ":" + port
	if b := c.bases[key]; b != nil {
		return b, nil
	}
	config := &tls.Config{InsecureSkipVerify: c.o.Insecure || isLoopback(host)}
	for _, dir := range c.o.CertDirs {
		for _, name := range []string{key, host} {
			if err := addCerts(config, filepath.Join(dir, name)); err != nil {
				return nil, err
			}
		}
	}
	c.bases[key] = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer(c.o.Stall).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   min(c.o.Stall, 15*time.Second),
		ForceAttemptHTTP2:     true, // which a TLS config of one's own turns off
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // a layer is compressed, and what was compressed once more has another digest
	}
	return c.bases[key], nil
}
