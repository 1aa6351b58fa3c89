package main

import (
	"cmp"
	"errors"
	"maps"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

func newVolumeCmd(g *globals) *cobra.Command {
	return newNounCmd(g, "volume", "Manage volumes",
		maker{"create", newVolumeCreateCmd},
		maker{"inspect", newVolumeInspectCmd},
		maker{"ls", newVolumeLsCmd},
		maker{"prune", newVolumePruneCmd},
		maker{"rm", newVolumeRmCmd},
	)
}

// volumeNames lists the volumes that a shell may offer.
func (g *globals) volumeNames() (names []string) {
	e, err := engine.Open(cmp.Or(g.root, engine.DefaultRoot()), g.runRoot)
	if err != nil {
		return nil
	}
	list, _ := e.ListVolumes() // those that can be read
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names
}

// volumeError gives an error about volumes its hint.
func volumeError(err error) error {
	s := &statusError{status: exitFailed, err: err}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, volumes.ErrNoVolume):
		s.hint = "'nslab volume ls' lists the volumes"
	case errors.Is(err, volumes.ErrInUse):
		s.hint = "remove the container first: nslab container rm"
	case errors.Is(err, volumes.ErrExists):
		s.hint = "remove it first, or leave --label out"
	default:
		return withStatus(exitFailed, err)
	}
	return s
}

// eachVolume does something for each volume that is named, and gives the errors a hint, if they are of one kind.
func eachVolume(names []string, do func(name string) error) error {
	err := eachArg(names, do)
	var failed *statusError
	var hinted *statusError
	if errors.As(err, &failed) && errors.As(volumeError(failed.err), &hinted) {
		failed.hint = hinted.hint
	}
	return err
}

// anonymousLabel is how Docker says that nobody gave a volume its name.
const anonymousLabel = "com.docker.volume.anonymous"

func volumeLabels(v *volumes.Volume) map[string]string {
	if !v.Anonymous {
		return v.Labels
	}
	labels := map[string]string{anonymousLabel: ""}
	maps.Copy(labels, v.Labels)
	return labels
}

// volumeSheet is how volumes are listed.
func volumeSheet() format.Sheet {
	return format.Sheet{
		Heads: map[string]string{
			"Driver": "DRIVER", "Name": "VOLUME NAME", "Mountpoint": "MOUNTPOINT", "Scope": "SCOPE", "Labels": "LABELS",
			"Links": "LINKS", "Size": "SIZE", "Status": "STATUS", "Availability": "AVAILABILITY", "Group": "GROUP",
		},
		Table: `{{.Driver}}\t{{.Name}}`,
		Quiet: `{{.Name}}`,
		Raw:   `name: {{.Name}}\ndriver: {{.Driver}}\n`, RawQuiet: `name: {{.Name}}`,
	}
}

// volumeRow is a volume as templates see it. Links and size are only known to `system df`.
type volumeRow struct {
	v           *volumes.Volume
	links, size string
}

func (r *volumeRow) Name() string             { return r.v.Name }
func (r *volumeRow) Driver() string           { return "local" }
func (r *volumeRow) Scope() string            { return "local" }
func (r *volumeRow) Mountpoint() string       { return r.v.Mountpoint() }
func (r *volumeRow) Labels() string           { return format.Labels(volumeLabels(r.v)) }
func (r *volumeRow) Label(name string) string { return volumeLabels(r.v)[name] }
func (r *volumeRow) Links() string            { return cmp.Or(r.links, "N/A") }
func (r *volumeRow) Size() string             { return cmp.Or(r.size, "N/A") }
func (r *volumeRow) Status() string           { return "N/A" }
func (r *volumeRow) Availability() string     { return "N/A" }
func (r *volumeRow) Group() string            { return "N/A" }
