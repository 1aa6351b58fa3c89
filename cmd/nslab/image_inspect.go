package main

import (
	"os"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/image"
)

func newImageInspectCmd(g *globals) *cobra.Command {
	var tmpl string
	cmd := &cobra.Command{
		Use:                   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short:                 "Show everything that is known about images",
		Example:               `  nslab image inspect --format '{{json .RootFS.Layers}}' bootstrap`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, -1),
		ValidArgsFunction:     completeNames(g.imageNames, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			out, err := format.NewInspector(tmpl)
			if err != nil {
				return withStatus(exitTemplate, err)
			}
			s, err := g.images()
			if err != nil {
				return err
			}
			failed := eachArg(args, func(ref string) error {
				i, err := s.Resolve(ref)
				if err == nil {
					err = s.Measure(i)
				}
				if err == nil {
					err = out.Add(inspected(s, i))
				}
				return err
			})
			if err := out.Flush(os.Stdout); err != nil {
				return withStatus(exitTemplate, err)
			}
			return imageError(failed)
		},
	}
	cmd.Flags().StringVarP(&tmpl, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	return cmd
}

// imageInspect is what `image inspect` shows, under Docker's names.
type imageInspect struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Parent        string
	Comment       string
	Created       string
	DockerVersion string
	Author        string
	Config        imageInspectConfig
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	Size          int64
	GraphDriver   imageInspectDriver
	RootFS        imageInspectLayers
	Metadata      imageInspectMetadata
	Descriptor    ocispec.Descriptor
}

type imageInspectConfig struct {
	User         string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Cmd          []string
	Healthcheck  *image.Healthcheck `json:",omitempty"`
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	OnBuild      []string
	Labels       map[string]string
	StopSignal   string   `json:",omitempty"`
	Shell        []string `json:",omitempty"`
}

// imageInspectDriver tells where the layers are unpacked: a container has the same folders below its own.
type imageInspectDriver struct {
	Data map[string]string
	Name string
}

type imageInspectLayers struct {
	Type   string
	Layers []string `json:",omitempty"`
}

type imageInspectMetadata struct{ LastTagTime time.Time }

func inspected(s *image.Store, i *image.Image) *imageInspect {
	c := i.Config.Config
	v := &imageInspect{
		ID: i.ID, RepoTags: append([]string{}, i.Names...), RepoDigests: append([]string{}, i.Digests...), Parent: i.Parent,
		Comment: i.Extra.Comment, Author: i.Config.Author, Architecture: i.Config.Architecture, Variant: i.Config.Variant,
		Os: i.Config.OS, Size: i.Size, Metadata: imageInspectMetadata{i.Tagged},
		Config: imageInspectConfig{
			User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Cmd: c.Cmd, Healthcheck: i.Extra.Healthcheck,
			Volumes: c.Volumes, WorkingDir: c.WorkingDir, Entrypoint: c.Entrypoint, OnBuild: i.Extra.OnBuild, Labels: c.Labels,
			StopSignal: c.StopSignal, Shell: i.Extra.Shell,
		},
		RootFS:      imageInspectLayers{Type: "layers"},
		GraphDriver: imageInspectDriver{Name: "overlay", Data: map[string]string{}},
		Descriptor:  i.Descriptor(),
	}
	if i.Config.Created != nil {
		v.Created = i.Config.Created.Format(time.RFC3339Nano)
	}
	for _, d := range i.Config.RootFS.DiffIDs {
		v.RootFS.Layers = append(v.RootFS.Layers, string(d))
	}
	if dirs := s.Folders(i); len(dirs) > 0 {
		slices.Reverse(dirs)
		v.GraphDriver.Data["UpperDir"] = dirs[0]
		if len(dirs) > 1 {
			v.GraphDriver.Data["LowerDir"] = strings.Join(dirs[1:], ":")
		}
	}
	return v
}
