package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/image/registry"
)

// loginOptions are the flags of login.
type loginOptions struct {
	user, password         string
	hasPassword, fromStdin bool
	verify                 bool
}

func newLoginCmd(*globals) *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Log in to a registry",
		Long: `Log in to a registry; without a name, to Docker Hub. User and password are
kept where Docker keeps them, so that either can use what the other knows: in
$DOCKER_CONFIG/config.json or ~/.docker/config.json, or with the credential
helper that is named there.`,
		Example: `  nslab login registry.example.com
  nslab login -u gopher --password-stdin localhost:5000 < password`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 1),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.hasPassword = cmd.Flags().Changed("password")
			ctx, stop := interruptible()
			defer stop()
			return imageError(login(ctx, cmd.OutOrStdout(), strings.Join(args, ""), cmd.Flags().Changed("username"), o))
		},
	}
	asDocker(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&o.password, "password", "p", "", "Password or Personal Access Token (PAT)")
	flags.BoolVar(&o.fromStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	flags.StringVarP(&o.user, "username", "u", "", "Username")
	tlsFlag(flags, &o.verify)
	return cmd
}

func newLogoutCmd(*globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:                   "logout [SERVER]",
		Short:                 "Log out from a registry",
		Long:                  "Forget user and password for a registry; without a name, for Docker Hub.",
		Example:               "  nslab logout registry.example.com",
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 1),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := registry.ServerName(strings.Join(args, ""))
			if err != nil {
				return imageError(err)
			}
			ctx, stop := interruptible()
			defer stop()
			fmt.Fprintln(cmd.OutOrStdout(), "Removing login credentials for", registry.ShownServer(server))
			return imageError(newRegistryClient(true).Logout(ctx, server))
		},
	}
	asDocker(cmd)
	return cmd
}

// login finds out who somebody is, asks the registry, and keeps it.
func login(ctx context.Context, w io.Writer, server string, hasUser bool, o loginOptions) error {
	no := func(hint, text string) error { return &statusError{exitFailed, errors.New(text), hint} }
	server, err := registry.ServerName(server)
	if err != nil {
		return err
	}
	switch {
	case o.hasPassword && o.fromStdin:
		return no("give one of them", "conflicting options: cannot specify both --password and --password-stdin")
	case o.fromStdin && o.user == "":
		return no("--username says whose it is", "the --password-stdin option requires --username to be set")
	case hasUser && o.user == "":
		return no("", "username is empty")
	case o.hasPassword && o.password == "":
		return no("", "password is empty")
	}
	c := newRegistryClient(o.verify)
	defer c.Close()
	switch {
	case o.hasPassword:
		fmt.Fprintln(os.Stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	case o.fromStdin:
		if o.password, err = readPassword(os.Stdin); err != nil {
			return err
		}
	case o.user == "":
		done, err := loginAgain(ctx, c, server)
		if done || err != nil {
			return succeeded(w, err)
		}
	}
	if o.user == "" || o.password == "" {
		if err := o.ask(ctx); err != nil {
			return err
		}
	}
	err = c.Login(ctx, server, o.user, o.password)
	if errors.Is(err, registry.ErrUnauthorized) {
		return no("is the password right? Some registries want a token instead of it", err.Error())
	}
	return succeeded(w, err)
}

func succeeded(w io.Writer, err error) error {
	if err == nil {
		_, err = fmt.Fprintln(w, "Login Succeeded")
	}
	return err
}

// loginAgain tries what is kept from an earlier time.
func loginAgain(ctx context.Context, c *registry.Client, server string) (done bool, err error) {
	a, err := c.Credentials(ctx, server)
	if err != nil || a.Username == "" && a.IdentityToken == "" {
		return false, err
	}
	fmt.Fprintf(os.Stderr, "Authenticating with existing credentials... [Username: %q]\n", a.Username)
	err = c.Check(ctx, server)
	if errors.Is(err, registry.ErrUnauthorized) {
		fmt.Fprintln(os.Stderr, "Login did not succeed, error:", oneLine(err))
		return false, nil
	}
	return true, err
}

// maxPassword is more than any password or token has.
const maxPassword = 64 << 10

// readPassword reads all of it, without the end of the line.
func readPassword(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case len(data) > maxPassword:
		return "", fmt.Errorf("read the password: it has more than %d bytes", maxPassword)
	case password == "":
		return "", &statusError{exitFailed, errors.New("the password on standard input is empty"), ""}
	}
	return password, nil
}

// ask asks for what is missing, if there is somebody to ask. The password is not shown.
func (o *loginOptions) ask(ctx context.Context) error {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return &statusError{exitFailed, errors.New("cannot ask for user and password: standard input is no terminal"),
			"nslab login --username USER --password-stdin"}
	}
	before, err := term.GetState(fd)
	if err != nil {
		return fmt.Errorf("ask for the password: %w", err)
	}
	answered := make(chan error, 1)
	user, password := o.user, o.password
	go func() {
		if user == "" {
			fmt.Fprint(os.Stderr, "Username: ")
			line, err := bufio.NewReader(os.Stdin).ReadString('\n')
			if user = strings.TrimSpace(line); err != nil || user == "" {
				answered <- errors.New("username is empty")
				return
			}
		}
		fmt.Fprint(os.Stderr, "Password: ")
		typed, err := term.ReadPassword(fd)
		fmt.Fprintln(os.Stderr)
		if password = string(typed); err == nil && password == "" {
			err = errors.New("password is empty")
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		o.user, o.password = user, password
		return err
	case <-ctx.Done(): // whoever reads cannot be stopped; the terminal must show again what is typed
		term.Restore(fd, before)
		fmt.Fprintln(os.Stderr)
		return context.Cause(ctx)
	}
}
