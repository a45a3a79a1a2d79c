package agent_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// A task that others send to says what drops its packets, while that is so.
func TestAnObstacleIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.obstacle.Store("chain FORWARD drops it; run: iptables")
		b.agent()
		reached, alone, ended := newTask("reached", 0), newTask("alone", 0), newTask("ended", 0)
		for _, k := range []*cluster.Task{reached, ended} {
			k.HostPorts = []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8080, Protocol: "tcp", PublishMode: swarm.PortConfigPublishModeHost}}
		}
		b.create(reached, alone, ended)
		says := func(want string) {
			t.Helper()
			settle(10 * time.Second)
			st := b.status("reached")
			if st.State != swarm.TaskStateRunning || st.Message != "started" || st.Err != want || st.ContainerStatus.ContainerID == "" {
				t.Errorf("it is %+v, want the error %q", st, want)
			}
			if st := b.status("alone"); st.State != swarm.TaskStateRunning || st.Err != "" {
				t.Errorf("a task that nobody sends to: %+v", st)
			}
		}
		b.await("reached", swarm.TaskStateRunning)
		b.await("alone", swarm.TaskStateRunning)
		b.await("ended", swarm.TaskStateRunning)
		says("chain FORWARD drops it; run: iptables")
		b.desire("ended", swarm.TaskStateShutdown)
		b.await("ended", swarm.TaskStateShutdown)
		b.obstacle.Store("")
		says("")
		b.obstacle.Store("another one")
		says("another one")
		if st := b.status("ended"); st.State != swarm.TaskStateShutdown || st.Err != "" {
			t.Errorf("a task that has ended: %+v", st)
		}
	})
}
