package opts

import "github.com/nslab/nslab/engine"

// WithoutEffect is what a container was asked for that does nothing, or more than its user may think.
func WithoutEffect(h *engine.HostConfig) (list []string) {
	if h.NetworkMode == "host" && (len(h.PortBindings) > 0 || h.PublishAllPorts) {
		list = append(list, "published ports are discarded when using host network mode")
	}
	if h.OomKillDisable != nil && *h.OomKillDisable && h.Memory == 0 {
		list = append(list, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources")
	}
	return list
}
