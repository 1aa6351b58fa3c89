package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Firewall is nslab's table in the kernel's packet filter. It is made when the first thing is put into it. Every method is one
// transaction: the kernel applies all of it or nothing, and packets meet the state before or the one after.
type Firewall struct {
	Table string // see [TableName]; its family is inet, which is IPv4 and IPv6 in one
}

// Network is what the firewall has to know of a network.
type Network struct {
	Owner      string
	Bridge     string
	Subnets    []netip.Prefix
	Masquerade bool // what goes out gets the host's address
	Internal   bool // nothing goes out
}

// Rules are everything that a table can hold.
type Rules struct {
	Networks []Network
	Ports    map[string][]Port // by owner
}

// AddNetwork lets a network's containers reach each other and the world, and nobody else reach them.
func (f Firewall) AddNetwork(ctx context.Context, n Network) error {
	list, err := n.elements()
	if err != nil {
		return err
	}
	if there, err := f.Exists(ctx); err != nil {
		return err
	} else if !there {
		if err := f.create(ctx); err != nil {
			return err
		}
	}
	return f.transact(ctx, nil, list)
}

// RemoveNetwork takes back what AddNetwork did.
func (f Firewall) RemoveNetwork(ctx context.Context, n Network) error {
	list, err := n.elements()
	if err != nil {
		return err
	}
	return f.remove(ctx, list, n.Owner)
}

// Publish makes a container's ports the host's, all or none. The owner is found again by [Firewall.Unpublish]; an address must
// not be given to another container before its ports are unpublished. [TakenError] says which one somebody else has.
func (f Firewall) Publish(ctx context.Context, owner string, ports ...Port) error {
	list, err := portElements(owner, ports)
	if err != nil || len(list) == 0 {
		return err
	}
	err = f.transact(ctx, nil, list)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// The key is there with another value. If it is the owner's own, of an earlier life, it is replaced.
	now, readErr := f.read(ctx)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	var old []element
	for _, e := range list {
		there, ok := now[e.id()]
		switch {
		case ok && there.owner != owner:
			return &TakenError{Proto: e.port.Proto, Addr: e.port.Host, Owner: there.owner}
		case ok && there.val != e.val:
			old = append(old, there)
		}
	}
	return f.transact(ctx, old, list)
}

// Unpublish takes back everything that an owner has published. Whoever knows which ports these are saves the kernel the search.
func (f Firewall) Unpublish(ctx context.Context, owner string, ports ...Port) error {
	list, err := portElements(owner, ports)
	if err != nil {
		return err
	}
	return f.remove(ctx, list, owner, mapPorts4, mapPorts6, mapAny4, mapAny6)
}

// Read is what the kernel has; nothing where there is no table.
func (f Firewall) Read(ctx context.Context) (Rules, error) {
	now, err := f.read(ctx)
	if err != nil {
		return Rules{}, err
	}
	return rulesOf(slices.Collect(maps.Values(now))), nil
}

// Sync brings the table to exactly this state, whatever it was in: after a crash, or after somebody has emptied the packet
// filter of the whole machine (`nft flush ruleset`). It says whether there was anything to do.
func (f Firewall) Sync(ctx context.Context, r Rules) (changed bool, err error) {
	var want []element
	for _, n := range r.Networks {
		list, err := n.elements()
		if err != nil {
			return false, err
		}
		want = append(want, list...)
	}
	for _, owner := range slices.Sorted(maps.Keys(r.Ports)) {
		list, err := portElements(owner, r.Ports[owner])
		if err != nil {
			return false, err
		}
		want = append(want, list...)
	}
	now, err := f.read(ctx)
	if err != nil {
		return false, err
	}
	var missing, surplus []element
	for _, e := range want {
		there, ok := now[e.id()]
		if !ok || there.val != e.val || there.owner != e.owner {
			missing = append(missing, e)
		} else {
			delete(now, e.id()) // what remains is too much, or in the way
		}
	}
	surplus = slices.SortedFunc(maps.Values(now), func(a, b element) int { return cmp.Compare(a.id(), b.id()) })
	if len(missing)+len(surplus) == 0 {
		return false, nil
	}
	return true, f.transact(ctx, surplus, missing)
}

// Remove removes the table with everything in it.
func (f Firewall) Remove(ctx context.Context) error {
	err := f.commit(ctx,
		func() string { return fmt.Sprintf("sendmsg(NFT_MSG_DELTABLE: nft delete table inet %s)", f.Table) },
		func(c *nftables.Conn) error { c.DelTable(f.table()); return nil })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &Error{"delete firewall table", f.Table, err}
	}
	return nil
}

// Exists says whether the table is there. Somebody who empties the packet filter of the whole machine empties it, too; then
// [Firewall.Sync] is to be called.
func (f Firewall) Exists(ctx context.Context) (bool, error) {
	names, err := Tables(ctx, f.Table)
	return slices.Contains(names, f.Table), err
}

// Tables lists the tables of family inet whose names begin so.
func Tables(ctx context.Context, prefix string) (names []string, err error) {
	err = message(ctx,
		func() string { return "sendmsg(NFT_MSG_GETTABLE: nft list tables inet)" },
		func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			all, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
			names = nil
			for _, t := range all {
				if strings.HasPrefix(t.Name, prefix) {
					names = append(names, t.Name)
				}
			}
			return err
		})
	if err != nil {
		return nil, &Error{"list firewall tables", "", err}
	}
	return names, nil
}

func (f Firewall) table() *nftables.Table {
	return &nftables.Table{Name: f.Table, Family: nftables.TableFamilyINet}
}

// create makes the table with its sets, chains and rules. One that is there stays as it is: two who start at once both
// come here, and only the first one's transaction takes place.
func (f Firewall) create(ctx context.Context) error {
	rules := newRules()
	err := f.commit(ctx,
		func() string {
			return fmt.Sprintf("sendmsg(NFT_MSG_NEWTABLE, NFT_MSG_NEWRULE: nft create table inet %s, with its chains, sets and %d rules)", f.Table, len(rules))
		},
		func(c *nftables.Conn) error {
			t := c.CreateTable(f.table())
			ids := map[string]uint32{}
			for _, s := range newSets(t) {
				if err := c.AddSet(s, nil); err != nil {
					return err
				}
				ids[s.Name] = s.ID
			}
			chains := map[string]*nftables.Chain{}
			for _, ch := range newChains(t) {
				chains[ch.Name] = c.AddChain(ch)
			}
			for _, r := range rules {
				do := slices.Concat(r.do...)
				for _, e := range do {
					if l, ok := e.(*expr.Lookup); ok {
						l.SetID = ids[l.SetName] // the set is made in this very transaction, and has no name yet
					}
				}
				c.AddRule(&nftables.Rule{Table: t, Chain: chains[r.chain], Exprs: do})
			}
			return nil
		})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &Error{"create firewall table", f.Table, err}
	}
	return nil
}

// remove removes elements that are thought to be there. If one is not, or none is known, it looks for what the owner has in
// these sets, or in all.
func (f Firewall) remove(ctx context.Context, list []element, owner string, sets ...string) error {
	if len(list) > 0 {
		err := f.transact(ctx, list, nil)
		if err == nil || !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	for range patience { // somebody else may be removing the same
		now, err := f.read(ctx, sets...)
		if err != nil {
			return err
		}
		var his []element
		for _, e := range now {
			if e.owner == owner {
				his = append(his, e)
			}
		}
		if len(his) == 0 {
			return nil
		}
		if err = f.transact(ctx, his, nil); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return &Error{"change firewall table", f.Table, unix.EBUSY}
}

// transact deletes and adds elements, in this order, at once.
func (f Firewall) transact(ctx context.Context, del, add []element) error {
	change := func() error {
		return f.commit(ctx,
			func() string { return changeText(f.Table, del, add) },
			func(c *nftables.Conn) error {
				t := f.table()
				if err := inSets(t, del, c.SetDeleteElements); err != nil {
					return err
				}
				return inSets(t, add, c.SetAddElements)
			})
	}
	err := change()
	if errors.Is(err, unix.ENOENT) && len(del) == 0 { // what is missing is the table
		if err := f.create(ctx); err != nil {
			return err
		}
		err = change()
	}
	if err != nil {
		return &Error{"change firewall table", f.Table, err}
	}
	return nil
}

// inSets hands elements to f, set by set, in messages that are not too long: a list's length is a number of 16 bits.
func inSets(t *nftables.Table, list []element, f func(*nftables.Set, []nftables.SetElement) error) error {
	const most = 250
	for _, s := range newSets(t) {
		var mine []nftables.SetElement
		for _, e := range list {
			if e.set == s.Name {
				mine = append(mine, e.nft()...)
			}
		}
		for chunk := range slices.Chunk(mine, most) {
			if err := f(s, chunk); err != nil {
				return err
			}
		}
	}
	return nil
}

// commit sends one transaction.
func (f Firewall) commit(ctx context.Context, text func() string, fill func(*nftables.Conn) error) error {
	return trace.Call(ctx, 1, text, func() error {
		return again(ctx, func() error {
			c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(buffers))
			if err != nil {
				return err
			}
			// What was deleted is freed after an RCU grace period, and to close a socket waits for that: 5 to 10 ms in which the
			// deletion has long taken place (nft_rcv_nl_event in net/netfilter/nf_tables_api.c). Nobody has to see that.
			defer func() { go c.CloseLasting() }()
			if err := fill(c); err != nil {
				return err
			}
			return firstErrno(c.Flush())
		})
	})
}

// firstErrno is what the kernel said first: each message of a transaction that fails is answered, and the answers to the later
// ones only follow from that.
func firstErrno(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}

// buffers makes room for a transaction of thousands of ports, which is sent in one piece.
func buffers(c *netlink.Conn) error {
	const size = 8 << 20
	return errors.Join(c.SetWriteBuffer(size), c.SetReadBuffer(size))
}

// read gets the elements of the named sets, all by default, by their ids.
func (f Firewall) read(ctx context.Context, sets ...string) (now map[string]element, err error) {
	err = trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("sendmsg(NFT_MSG_GETSETELEM: nft list table inet %s)", f.Table) },
		func() error {
			return again(ctx, func() error { now, err = f.dump(sets); return err })
		})
	if err != nil {
		return nil, &Error{"read firewall table", f.Table, err}
	}
	return now, nil
}

func (f Firewall) dump(sets []string) (map[string]element, error) {
	now := map[string]element{}
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(buffers))
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	for _, s := range newSets(f.table()) {
		if len(sets) > 0 && !slices.Contains(sets, s.Name) {
			continue
		}
		// A table of many elements that were just added is still being resized by a worker of the kernel, and a list that is
		// read meanwhile may lack some, without a word. So it is read again until nothing new is in it.
		const few = 8
		for before := -1; before < len(now); {
			before = len(now)
			all, err := c.GetSetElements(s)
			if missing(err) {
				return now, nil
			}
			if err != nil {
				return nil, err
			}
			for _, e := range elementsOf(s, all) {
				now[e.id()] = e
			}
			if len(all) <= few {
				break
			}
		}
	}
	return now, nil
}

// missing says whether the kernel has no such table. The library renders the errno into a text here.
func missing(err error) bool {
	return err != nil && (errors.Is(err, unix.ENOENT) || strings.HasSuffix(err.Error(), unix.ENOENT.Error()))
}
