// Package labs is the course: its labs in the order they are taught. A new lab is one line here.
package labs

import (
	"github.com/nslab/nslab/course"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	setns "github.com/nslab/nslab/labs/06-setns"
	volumes "github.com/nslab/nslab/labs/07-volumes"
	image "github.com/nslab/nslab/labs/08-image"
	network "github.com/nslab/nslab/labs/09-network"
	security "github.com/nslab/nslab/labs/10-security"
	container "github.com/nslab/nslab/labs/12-container"
)

// All lists the labs.
func All() []*course.Lab {
	return []*course.Lab{
		&pid.Lab,
		&mount.Lab,
		&cgroups.Lab,
		&rootfs.Lab,
		&unionfs.Lab,
		&setns.Lab,
		&volumes.Lab,
		&image.Lab,
		&network.Lab,
		&security.Lab,
		&container.Lab,
	}
}
