// Package engine keeps containers: with names, logs and volumes, on disk and across commands.
//
// It is what Docker's daemon is to runc, without a daemon. [Engine.Create] turns an image and what the user asked for
// into a folder with a runtime-spec in it; [Engine.Start] hands that to a monitor, a small process which runs the
// container through labs/12-container and stays with it; all other methods read the state, reconcile it with the
// kernel's, and act.
//
// On disk, below the root (/var/lib/nslab):
//
//	containers/<id>/container.json   what was asked for; written once by create, and by rename and update
//	                config.json      the runtime-spec made from it
//	                exit.json        how the last run ended; written by the monitor
//	                log.json         output
//	                init upper work merged   the layers, see labs/05-unionfs
//	names/<name>                     a link whose text is the id: symlink(2) claims a name, or fails, in one step
//
// and below the run root (/run/nslab), gone at a reboot as the processes are:
//
//	containers/<id>/lock             flock: one command at a time; its text is the root
//	                state.json       the runtime's record of the running container: process, control group
//	                monitor          flock, held by the monitor while it lives
//	                attach           socket
//	                paused           a command has paused the container for a moment, and will let it go on
//
// A container whose run folder is missing, or is of another boot, does not run.
package engine
