package main

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/registry"
)

// tlsFlag adds --tls-verify, as Podman has it; Docker's daemon is told the same in its configuration.
func tlsFlag(flags *pflag.FlagSet, verify *bool) {
	flags.BoolVar(verify, "tls-verify", true, "Require TLS and a trusted certificate, but for this machine's own registries")
}

// newRegistryClient is who talks to registries.
func newRegistryClient(tlsVerify bool) *registry.Client {
	return registry.New(registry.Options{Insecure: !tlsVerify, UserAgent: "nslab/" + version})
}

// registryHint is what to do about an error of a registry.
func registryHint(err error) string {
	var said *registry.Error
	var config *registry.ConfigError
	host := "REGISTRY"
	if errors.As(err, &said) {
		host = said.Host
	}
	login := strings.TrimSuffix("nslab login "+host, " "+registry.DefaultServer)
	switch {
	case errors.As(err, &config) && errors.Is(err, fs.ErrPermission):
		return "$DOCKER_CONFIG names another folder for it"
	case errors.As(err, &config):
		return "repair or remove " + config.Path + "; $DOCKER_CONFIG names another folder"
	case errors.Is(err, registry.ErrUnreachable) && !strings.Contains(err.Error(), "pull "): // a push or a login
		return "is " + host + " the registry's address, and does it run?"
	case errors.Is(err, registry.ErrUnreachable):
		return "without a network, 'nslab image bootstrap' makes an image of this machine's programs, and 'nslab image import' one of a tar"
	case errors.Is(err, registry.ErrUnauthorized):
		return "'" + login + "' says who you are; is the name right?"
	case errors.Is(err, registry.ErrNotFound):
		return "is the name right? Without a tag it is 'latest'; a registry's name comes first"
	case errors.Is(err, registry.ErrPlain):
		return "if everybody on the way can be trusted: nslab image pull --tls-verify=false"
	case errors.Is(err, registry.ErrCertificate):
		return "put its authority's certificate into /etc/docker/certs.d/" + host + "/ca.crt, or take any: nslab image pull --tls-verify=false"
	case errors.Is(err, registry.ErrPlatform):
		return "'nslab image pull --platform OS/ARCH' takes another; its programs need an emulator"
	case errors.Is(err, registry.ErrNoImage) && strings.Contains(err.Error(), "schema 1"):
		return "any tool of today makes a newer one: whoever has the image can push it again"
	case errors.Is(err, image.ErrContent):
		return "try again; if it stays so, the image is broken, or something on the way is"
	}
	return ""
}
