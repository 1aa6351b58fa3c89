package unionfs

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// device reads requests from /dev/fuse and writes the answers.
//
// A request costs a few microseconds; to wake a thread costs more. So one goroutine, the leader, reads a request, answers
// it, and reads the next, while its client sleeps: for a single client, unpacking an archive say, nothing is faster. It
// lets another lead in two cases. When requests keep waiting already as it comes back, there is work for more than one.
// And when one answer takes long, a copy-up of gigabytes or a slow disk, the watch takes the lead from it, so that
// nobody else waits for it.
type device struct {
	fd     int
	server *fuse.ProtocolServer

	turn    chan struct{} // holds the lead while nobody has it
	leading atomic.Uint64 // the number of the request that the leader is answering; 0 while it reads
	number  atomic.Uint64
	idle    atomic.Int32 // workers that wait for the lead
	workers atomic.Int32

	asleep atomic.Bool // the watch
	wake   chan struct{}

	over chan struct{} // closed when the mount is gone
	end  sync.Once
	busy sync.WaitGroup
}

const (
	maxWorkers = 64
	backlog    = 4                    // requests in a row that were waiting already
	waiting    = 4 * time.Microsecond // a read that takes less had not to wait
	patience   = time.Millisecond     // with an answer, before somebody else leads
	headRoom   = 8 << 10              // of a message, besides the data
)

// serve answers until the mount is gone.
func (d *device) serve() {
	d.turn, d.wake, d.over = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	go d.watch()
	d.pass()
	<-d.over
	d.busy.Wait()
}

// pass gives the lead to somebody else.
func (d *device) pass() {
	if d.idle.Load() == 0 && d.workers.Load() < maxWorkers {
		d.workers.Add(1)
		go d.work()
	}
	d.turn <- struct{}{}
}

func (d *device) work() {
	in, out := make([]byte, maxTransfer+headRoom), make([]byte, maxTransfer+headRoom)
	for {
		d.idle.Add(1)
		select {
		case <-d.turn:
		case <-d.over:
			return
		}
		d.idle.Add(-1)
		if !d.lead(in, out) {
			return
		}
	}
}

// lead answers requests until the lead is lost; false says that the mount is gone.
func (d *device) lead(in, out []byte) bool {
	ready := 0
	for {
		start := time.Now()
		n, err := unix.Read(d.fd, in)
		switch err {
		case nil:
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // the last: the request was interrupted before we took it
			continue
		default: // ENODEV: unmounted; ECONNABORTED: cut off through /sys/fs/fuse/connections
			d.end.Do(func() { close(d.over) })
			return false
		}
		if time.Since(start) < waiting {
			ready++
		} else {
			ready = 0
		}
		number := d.number.Add(1)
		d.leading.Store(number)
		if d.asleep.Load() && d.asleep.CompareAndSwap(true, false) {
			d.wake <- struct{}{}
		}
		if ready >= backlog {
			ready = 0
			d.take(number)
		}
		d.answer(in[:n], out)
		if !d.leading.CompareAndSwap(number, 0) {
			return true // somebody else leads
		}
	}
}

// take takes the lead from whoever answers the request of this number, if it still does.
func (d *device) take(number uint64) {
	if d.leading.CompareAndSwap(number, 0) {
		d.pass()
	}
}

func (d *device) answer(in, out []byte) {
	d.busy.Add(1)
	defer d.busy.Done()
	n, _ := d.server.HandleRequest([][]byte{in}, [][]byte{out})
	if n == 0 {
		return // a message that has no answer
	}
	for {
		if _, err := unix.Write(d.fd, out[:n]); err != unix.EINTR {
			return // ENOENT: whoever asked was killed meanwhile
		}
	}
}

// watch looks every now and then whether the same request is still being answered. While there are none it sleeps.
func (d *device) watch() {
	var last uint64
	for quiet := 0; ; {
		time.Sleep(patience)
		now := d.leading.Load()
		if now != 0 && now == last {
			d.take(now)
		}
		if number := d.number.Load(); now == 0 && number == last {
			quiet++
		} else {
			quiet = 0
		}
		last = d.number.Load()
		if now != 0 {
			last = now
		}
		if quiet < 50 {
			continue
		}
		d.asleep.Store(true)
		if d.leading.Load() == 0 {
			<-d.wake
		} else if !d.asleep.CompareAndSwap(true, false) {
			<-d.wake // the leader has just seen us asleep
		}
		quiet = 0
	}
}
