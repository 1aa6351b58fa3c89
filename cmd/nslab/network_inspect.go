package main

import (
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
)

// networkDetails is a network as `network inspect` shows it, in Docker's form.
type networkDetails struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ipamDetails
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]engine.Connected
	Options    map[string]string
	Labels     map[string]string
}

type ipamDetails struct {
	Driver  string
	Options map[string]string
	Config  []poolDetails
}

type poolDetails struct {
	Subnet             string
	IPRange            string                `json:",omitempty"`
	Gateway            string                `json:",omitempty"`
	AuxiliaryAddresses map[string]netip.Addr `json:",omitempty"`
}

func newNetworkDetails(e *engine.Engine, n *network.Network) (*networkDetails, error) {
	d := &networkDetails{
		Name: n.Name, ID: n.ID, Created: n.Created.UTC().Format(time.RFC3339Nano), Scope: "local", Driver: n.Driver,
		EnableIPv4: n.Pool4() != nil, EnableIPv6: n.EnableIPv6, Internal: n.Internal, Attachable: n.Attachable,
		IPAM:    ipamDetails{Driver: "default", Config: []poolDetails{}},
		Options: n.Options, Labels: n.Labels,
	}
	if n.UserDefined() {
		d.IPAM.Options = map[string]string{}
	}
	for _, p := range n.Pools {
		x := poolDetails{Subnet: p.Subnet.String(), Gateway: p.Gateway.String(), AuxiliaryAddresses: p.Aux}
		if p.Range.IsValid() {
			x.IPRange = p.Range.String()
		}
		d.IPAM.Config = append(d.IPAM.Config, x)
	}
	var err error
	d.Containers, err = e.NetworkContainers(n)
	return d, err
}

func newNetworkInspectCmd(g *globals) *cobra.Command {
	var template string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NETWORK [NETWORK...]",
		Short: "Display detailed information on one or more networks",
		Example: `  nslab network inspect bridge
  nslab network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' front`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.networkNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			show, err := format.NewInspector(template)
			if err != nil {
				return withStatus(exitTemplate, err)
			}
			e, err := g.engine()
			if err != nil {
				return err
			}
			err = eachArg(args, func(ref string) error {
				n, err := e.Network(ref)
				if err != nil {
					return err
				}
				d, err := newNetworkDetails(e, n)
				if err != nil {
					return err
				}
				return show.Add(d)
			})
			if flushErr := show.Flush(cmd.OutOrStdout()); flushErr != nil {
				return flushErr
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&template, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Verbose output for diagnostics")
	cmd.Flags().Lookup("verbose").Hidden = true // of swarms; there is nothing more to say here
	return cmd
}
