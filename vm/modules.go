package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// wantedModules are those that nslab's labs use, and the machine's own devices. The guest has no modprobe that the kernel
// could call when a module is first needed, so they are loaded at the start.
var wantedModules = strings.Fields(`
	virtio_pci virtio_blk virtio_rng
	overlay fuse loop squashfs
	veth bridge br_netfilter dummy macvlan ipvlan vxlan tun
	nf_tables nf_conntrack nf_conntrack_netlink nf_nat nft_chain_nat nft_ct nft_nat nft_masq nft_redir nft_reject_inet
	nft_limit nft_log nft_compat nft_fib_inet ip_tables iptable_filter iptable_nat xt_MASQUERADE xt_nat xt_conntrack
	xt_addrtype xt_comment
	sch_htb sch_netem sch_ingress cls_u32 unix_diag inet_diag tcp_diag af_packet_diag`)

// module is one that the guest is to load.
type module struct {
	name string
	code []byte // as the kernel takes it: not compressed
}

// loadOrder returns the modules with all that they depend on, each after its dependencies, and the names of those that the
// kernel has neither as a module nor built in. The package has no modules.dep, which depmod(8) writes when it is installed;
// but each module names its dependencies itself.
func loadOrder(ctx context.Context, dir string, wanted []string) (order []module, absent []string, err error) {
	files := map[string]string{}
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		base := filepath.Base(file)
		if name, _, ok := strings.Cut(base, ".ko"); ok && err == nil && d.Type().IsRegular() {
			files[moduleName(name)] = file
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, nil, err
	}
	inside := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		inside[moduleName(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if done[name] || inside[name] {
			return nil
		}
		done[name] = true
		file, ok := files[name]
		if !ok {
			absent = append(absent, name)
			return nil
		}
		code, err := readModule(ctx, file)
		if err != nil {
			return err
		}
		needs, err := dependencies(code)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		order = append(order, module{name, code})
		return nil
	}
	for _, w := range wanted {
		if err := add(moduleName(w)); err != nil {
			return nil, nil, err
		}
	}
	return order, absent, nil
}

// moduleName: files and modules.builtin write "-" and "_" as they like, the kernel has "_".
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// readModule reads a module and, if it is compressed, has the tool of that name decompress it.
func readModule(ctx context.Context, file string) ([]byte, error) {
	tools := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
	tool, ok := tools[filepath.Ext(file)]
	if !ok {
		return os.ReadFile(file)
	}
	out, err := exec.CommandContext(ctx, tool, "-dc", file).Output()
	if err != nil {
		return nil, fmt.Errorf("%s -dc %s: %w", tool, file, err)
	}
	return out, nil
}

// dependencies reads "depends=a,b" in the section .modinfo, where texts stand with a zero byte after each.
func dependencies(code []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("no section .modinfo: not a module")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(line, "depends="); ok && list != "" {
			return strings.Split(moduleName(list), ","), nil
		}
	}
	return nil, nil
}
