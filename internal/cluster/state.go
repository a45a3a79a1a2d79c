package cluster

import "github.com/moby/moby/api/types/swarm"

// stateOrder is the order in which a task passes its states; the numbers are Swarm's. swarm.TaskState is a string,
// so that < compiles and lies: compare with [StateOrder].
var stateOrder = map[swarm.TaskState]int{
	swarm.TaskStateNew:       0,
	swarm.TaskStateAllocated: 64,
	swarm.TaskStatePending:   64,
	swarm.TaskStateAssigned:  192,
	swarm.TaskStateAccepted:  256,
	swarm.TaskStatePreparing: 320,
	swarm.TaskStateReady:     384,
	swarm.TaskStateStarting:  448,
	swarm.TaskStateRunning:   512,
	swarm.TaskStateComplete:  576,
	swarm.TaskStateShutdown:  640,
	swarm.TaskStateFailed:    704,
	swarm.TaskStateRejected:  768,
	swarm.TaskStateRemove:    800,
	swarm.TaskStateOrphaned:  832,
}

// StateOrder is the place of a state in a task's life: a later state has a higher number. An unknown state is -1.
func StateOrder(s swarm.TaskState) int {
	if n, ok := stateOrder[s]; ok {
		return n
	}
	return -1
}

// Before says whether state a comes before b in a task's life.
func Before(a, b swarm.TaskState) bool { return StateOrder(a) < StateOrder(b) }

// Terminal says whether a task in the state has ended: nothing of it runs any more.
func Terminal(s swarm.TaskState) bool { return Before(swarm.TaskStateRunning, s) }

// WantsToRun says whether the task is meant to run: its desired state is ready, running or, for a job's task, complete.
func (t *Task) WantsToRun() bool { return !Before(swarm.TaskStateComplete, t.DesiredState) }

// Held says whether the task is to be stopped but must go on for a moment: it took connections from the routing mesh,
// and a node may still send it new ones.
func (t *Task) Held() bool {
	return !t.WantsToRun() && !t.Released && len(t.NetworksAttachments) > 0 && t.Status.State == swarm.TaskStateRunning
}

// TakesRoom says whether the task takes room on its node: it was given to it, is to be run there, and has not ended.
func (t *Task) TakesRoom() bool {
	return t.NodeID != "" && !Before(t.Status.State, swarm.TaskStateAssigned) && !t.Ended() && !t.Attaches()
}

// Ended says whether the task has ended: nothing of it runs any more.
func (t *Task) Ended() bool { return Terminal(t.Status.State) }
