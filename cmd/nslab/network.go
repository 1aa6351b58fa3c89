package main

import (
	"cmp"
	"errors"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
)

func newNetworkCmd(g *globals) *cobra.Command {
	return newNounCmd(g, "network", "Manage networks",
		maker{"connect", newNetworkConnectCmd},
		maker{"create", newNetworkCreateCmd},
		maker{"disconnect", newNetworkDisconnectCmd},
		maker{"inspect", newNetworkInspectCmd},
		maker{"ls", newNetworkLsCmd},
		maker{"prune", newNetworkPruneCmd},
		maker{"rm", newNetworkRmCmd},
	)
}

// networkNames lists the networks that a shell may offer.
func (g *globals) networkNames() (names []string) {
	e, err := engine.Open(cmp.Or(g.root, engine.DefaultRoot()), g.runRoot)
	if err != nil {
		return nil
	}
	list, _ := e.Networks() // those that can be read
	for _, n := range list {
		names = append(names, n.Name)
	}
	return names
}

// networkHint is the remedy for an error about networks.
func networkHint(err error) string {
	var missing *network.NotFoundError
	var wrong *network.Error
	switch {
	case errors.As(err, &missing):
		return "'nslab network ls' lists the networks"
	case errors.As(err, &wrong):
		return wrong.Hint
	}
	return ""
}

// networkSheet is how networks are listed.
func networkSheet() format.Sheet {
	return format.Sheet{
		Heads: map[string]string{
			"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
			"Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
		},
		Table: `{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}`,
		Quiet: `{{.ID}}`,
		Raw:   `network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n`, RawQuiet: `network_id: {{.ID}}`,
	}
}

// networkRow is a network as templates see it.
type networkRow struct {
	n     *network.Network
	trunc bool
}

func (r *networkRow) ID() string {
	if r.trunc {
		return format.ShortID(r.n.ID)
	}
	return r.n.ID
}

func (r *networkRow) Name() string   { return r.n.Name }
func (r *networkRow) Driver() string { return r.n.Driver }
func (r *networkRow) Scope() string  { return "local" }
func (r *networkRow) CreatedAt() string {
	return r.n.Created.UTC().Format("2006-01-02 15:04:05.999999999 -0700 MST")
}
func (r *networkRow) Labels() string   { return format.Labels(r.n.Labels) }
func (r *networkRow) IPv4() string     { return yesNo(r.n.Pool4() != nil) }
func (r *networkRow) IPv6() string     { return yesNo(r.n.EnableIPv6) }
func (r *networkRow) Internal() string { return yesNo(r.n.Internal) }

// Label is one label.
func (r *networkRow) Label(name string) string { return r.n.Labels[name] }

func yesNo(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// networkKeys are the filters of `network ls`.
var networkKeys = []string{"dangling", "driver", "id", "label", "name", "scope", "type"}

// networkFilter says which networks the filters mean.
func networkFilter(e *engine.Engine, f filter.Filters) (func(*network.Network) bool, error) {
	if err := f.Check(networkKeys...); err != nil {
		return nil, err
	}
	if err := f.OneOf("type", "builtin", "custom"); err != nil {
		return nil, err
	}
	dangling, err := f.Bool("dangling", true)
	if err != nil {
		return nil, err
	}
	return func(n *network.Network) bool {
		kind := "custom"
		if !n.UserDefined() {
			kind = "builtin"
		}
		if f.Has("dangling") {
			used, _ := e.NetworkContainers(n)
			if unused := len(used) == 0 && n.UserDefined(); unused != dangling {
				return false
			}
		}
		return f.Exact("driver", n.Driver) && f.Prefix("id", n.ID) && f.Labels("label", n.Labels) &&
			f.Match("name", n.Name) && f.Exact("scope", "local") && f.Exact("type", kind)
	}, nil
}
