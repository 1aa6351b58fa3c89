package registry

import (
	"context"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// A credential helper is a program, docker-credential-NAME, that keeps passwords, in a keyring for instance. config.json says
// which one, for a registry or for all. It may ask somebody something, and so may take long: it ends with whoever asked it.

// tokenUser stands for a user where the secret is a token.
const tokenUser = "<token>"

// keeper keeps credentials: a file, or a helper and a file that says that there are some.
type keeper interface {
	Get(server string) (types.AuthConfig, error)
	Store(types.AuthConfig) error
	Erase(server string) error
}

// keeperFor is who keeps the credentials of a server.
func keeperFor(ctx context.Context, f *configfile.ConfigFile, server string) keeper {
	helper, ok := f.CredentialHelpers[server]
	if !ok {
		helper = f.CredentialsStore
	}
	if helper == "" {
		return f.GetCredentialsStore(server)
	}
	return &helperKeeper{ctx, "docker-credential-" + helper, f}
}

type helperKeeper struct {
	ctx     context.Context
	program string
	f       *configfile.ConfigFile
}

func (k *helperKeeper) run(args ...string) client.Program {
	cmd := exec.CommandContext(k.ctx, k.program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = time.Second // for what it has started and left behind
	return &helperProgram{cmd}
}

// fail says who failed.
func (k *helperKeeper) fail(err error) error {
	if cause := context.Cause(k.ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		return &ConfigError{k.program, err}
	}
	return nil
}

func (k *helperKeeper) Get(server string) (a types.AuthConfig, err error) {
	c, err := client.Get(k.run, server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return a, nil
	case err != nil:
		return a, k.fail(err)
	case c.Username == tokenUser:
		a.IdentityToken = c.Secret
	default:
		a.Username, a.Password = c.Username, c.Secret
	}
	a.ServerAddress = server
	return a, nil
}

func (k *helperKeeper) Store(a types.AuthConfig) error {
	c := &credentials.Credentials{ServerURL: a.ServerAddress, Username: a.Username, Secret: a.Password}
	if a.IdentityToken != "" {
		c.Username, c.Secret = tokenUser, a.IdentityToken
	}
	if err := client.Store(k.run, c); err != nil {
		return k.fail(err)
	}
	k.f.AuthConfigs[a.ServerAddress] = types.AuthConfig{ServerAddress: a.ServerAddress}
	return k.f.Save()
}

func (k *helperKeeper) Erase(server string) error {
	if err := client.Erase(k.run, server); err != nil {
		return k.fail(err)
	}
	if _, ok := k.f.AuthConfigs[server]; !ok {
		return nil
	}
	delete(k.f.AuthConfigs, server)
	return k.f.Save()
}

type helperProgram struct{ *exec.Cmd }

func (p *helperProgram) Input(in io.Reader) { p.Stdin = in }
