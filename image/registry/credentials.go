package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/image"
)

// DefaultServer is where images come from whose name has no registry.
const DefaultServer = "docker.io"

// hubKey is what Docker calls its own registry in config.json, for reasons of long ago.
const hubKey = "https://index.docker.io/v1/"

// ServerName reads what people call a registry: a host name or, as they copy it, an address.
func ServerName(server string) (string, error) {
	if server == "" {
		return DefaultServer, nil
	}
	name := server
	for _, scheme := range []string{"https://", "http://"} {
		name = strings.TrimPrefix(name, scheme)
	}
	name, _, _ = strings.Cut(name, "/")
	switch name {
	case "index.docker.io", "registry-1.docker.io", "docker.io":
		return DefaultServer, nil
	}
	u, err := url.Parse("//" + name)
	if err != nil || name == "" || u.Host != name || u.Hostname() == "" {
		return "", &image.ReferenceError{Ref: server, Why: "no registry has such a name"}
	}
	return name, nil
}

// key is what a registry is called in config.json.
func key(server string) string {
	if server == DefaultServer {
		return hubKey
	}
	return server
}

// dir is the folder of config.json.
func (c *Client) dir() string {
	if c.o.ConfigDir != "" {
		return c.o.ConfigDir
	}
	return config.Dir()
}

// loadConfig reads config.json. One that is not there is empty.
func (c *Client) loadConfig() (*configfile.ConfigFile, error) {
	f, err := config.Load(c.dir())
	if err != nil {
		return nil, &ConfigError{filepath.Join(c.dir(), config.ConfigFileName), err}
	}
	return f, nil
}

// ConfigError is a config.json that cannot be read or written, or a credential helper that does not help.
type ConfigError struct {
	Path string
	Err  error
}

func (e *ConfigError) Error() string { return "credentials: " + oneLine(e.Err) }

// Unwrap gives the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

func oneLine(err error) string {
	return short(strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), " "))
}

// Credentials are those that are kept for a registry, if there are any.
func (c *Client) Credentials(ctx context.Context, server string) (types.AuthConfig, error) {
	f, err := c.loadConfig()
	if err != nil {
		return types.AuthConfig{}, err
	}
	a, err := keeperFor(ctx, f, key(server)).Get(key(server))
	return a, c.configError(ctx, err)
}

// configError says which file it was.
func (c *Client) configError(ctx context.Context, err error) error {
	var known *ConfigError
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return &ConfigError{filepath.Join(c.dir(), config.ConfigFileName), err}
}

// authenticator is what we show a registry.
func (c *Client) authenticator(ctx context.Context, server string) (authn.Authenticator, error) {
	a, err := c.Credentials(ctx, server)
	if err != nil {
		return nil, err
	}
	return authenticatorOf(a), nil
}

func authenticatorOf(a types.AuthConfig) authn.Authenticator {
	if a.Username == "" && a.Password == "" && a.IdentityToken == "" && a.RegistryToken == "" && a.Auth == "" {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: a.Username, Password: a.Password, Auth: a.Auth, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	})
}

// Login asks a registry whether it knows a user and a password, and keeps them if it does, in Docker's config.json or with the
// helper that is named there.
func (c *Client) Login(ctx context.Context, server, user, password string) error {
	a := types.AuthConfig{Username: user, Password: password, ServerAddress: key(server)}
	if err := c.check(ctx, server, a); err != nil {
		return err
	}
	return c.changeConfig(ctx, func(f *configfile.ConfigFile) error {
		if !f.ContainsAuth() { // nothing is there yet, so it may be the machine's own keyring, where there is one
			f.CredentialsStore = credentials.DetectDefaultStore(f.CredentialsStore)
		}
		return keeperFor(ctx, f, a.ServerAddress).Store(a)
	})
}

// Check asks a registry whether it takes the credentials that are kept for it.
func (c *Client) Check(ctx context.Context, server string) error {
	a, err := c.Credentials(ctx, server)
	if err != nil {
		return err
	}
	return c.check(ctx, server, a)
}

func (c *Client) check(ctx context.Context, server string, a types.AuthConfig) error {
	reg, err := c.registry(server)
	if err != nil {
		return err
	}
	err = c.again(ctx, func() error {
		rt, err := transport.NewWithContext(ctx, reg, authenticatorOf(a), c.agent(), nil)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, reg.Scheme()+"://"+reg.RegistryStr()+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: rt, CheckRedirect: noDowngrade}).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return transport.CheckError(resp, http.StatusOK)
	})
	return c.explain(ctx, server, err)
}

// Logout forgets what is kept for a registry. If nothing is, that is as well.
func (c *Client) Logout(ctx context.Context, server string) error {
	return c.changeConfig(ctx, func(f *configfile.ConfigFile) error {
		// The names that a registry may have in the file: Docker's own has one, others had addresses once.
		names := []string{key(server)}
		if server != DefaultServer {
			names = append(names, "https://"+server, "http://"+server)
		}
		for _, name := range names {
			store := keeperFor(ctx, f, name)
			a, err := store.Get(name)
			if err != nil {
				return err
			}
			if _, noted := f.AuthConfigs[name]; !noted && authenticatorOf(a) == authn.Anonymous {
				continue
			}
			if err := store.Erase(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// changeConfig changes config.json, one at a time. It is the owner's alone, whatever it was before.
func (c *Client) changeConfig(ctx context.Context, change func(*configfile.ConfigFile) error) (err error) {
	defer func() { err = c.configError(ctx, err) }()
	if err := os.MkdirAll(c.dir(), 0o700); err != nil {
		return err
	}
	lock, err := os.Open(c.dir())
	if err != nil {
		return err
	}
	defer lock.Close()
	for unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	f, err := c.loadConfig()
	if err != nil {
		return err
	}
	if st, err := os.Stat(f.Filename); err == nil && st.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(f.Filename, 0o600); err != nil { // a new one gets the mode of the old one
			return err
		}
	}
	return change(f)
}

// ShownServer is what Docker calls a registry in what it prints.
func ShownServer(server string) string { return key(server) }
