package consensus

import "sync"

// leadership passes on raft's notices of leadership, each in turn, without ever holding up raft.
type leadership struct {
	notify chan bool
	out    chan bool
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
}

func newLeadership() *leadership {
	l := &leadership{
		notify: make(chan bool), out: make(chan bool),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go l.run()
	return l
}

func (l *leadership) run() {
	defer close(l.done)
	defer close(l.out)
	var queue []bool
	for {
		var out chan bool
		var next bool
		if len(queue) > 0 {
			out, next = l.out, queue[0]
		}
		select {
		case v := <-l.notify:
			queue = append(queue, v)
		case out <- next:
			queue = queue[1:]
		case <-l.stop:
			return
		}
	}
}

// close ends the goroutine and closes the channel. Raft must be shut down before.
func (l *leadership) close() {
	l.once.Do(func() { close(l.stop) })
	<-l.done
}
