package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/swarm"
)

func (a *api) swarmRoutes() []route {
	own := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Swarm != nil, "swarms"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		post("/swarm/init", own(a.initSwarm)).lasting(MembershipTime),
		post("/swarm/join", own(a.joinSwarm)).lasting(MembershipTime),
		post("/swarm/leave", own(a.leaveSwarm)).lasting(MembershipTime),
		post("/swarm/unlock", own(a.unlockSwarm)).lasting(MembershipTime),
		get("/swarm/unlockkey", a.managed(a.unlockKey)),
		get("/swarm", a.managed(a.inspectSwarm)),
		post("/swarm/update", a.managed(a.updateSwarm)),
	}
}

// managed wraps what only a manager can answer.
func (a *api) managed(h func(*call) error) func(*call) error {
	return func(c *call) error {
		if err := need(a.Control != nil, "swarms"); err != nil {
			return err
		}
		return h(c)
	}
}

func (a *api) initSwarm(c *call) error {
	var r swarm.InitRequest
	if err := c.json(&r); err != nil {
		return err
	}
	id, err := a.Swarm.Init(c.Context(), r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, id)
}

func (a *api) joinSwarm(c *call) error {
	var r swarm.JoinRequest
	if err := c.json(&r); err != nil {
		return err
	}
	return a.Swarm.Join(c.Context(), r)
}

func (a *api) leaveSwarm(c *call) error {
	return a.Swarm.Leave(c.Context(), c.flag("force"))
}

func (a *api) unlockSwarm(c *call) error {
	var r swarm.UnlockRequest
	if err := c.json(&r); err != nil {
		return err
	}
	return a.Swarm.Unlock(c.Context(), r)
}

func (a *api) unlockKey(c *call) error {
	key, err := a.Control.UnlockKey(c.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, swarm.UnlockKeyResponse{UnlockKey: key})
}

func (a *api) inspectSwarm(c *call) error {
	s, err := a.Control.Swarm(c.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, s)
}

func (a *api) updateSwarm(c *call) error {
	var spec swarm.Spec
	if err := c.json(&spec); err != nil {
		return err
	}
	version, err := c.objectVersion("swarm")
	if err != nil {
		return err
	}
	var rotate RotateFlags
	for name, flag := range map[string]*bool{
		"rotateWorkerToken":      &rotate.WorkerToken,
		"rotateManagerToken":     &rotate.ManagerToken,
		"rotateManagerUnlockKey": &rotate.ManagerUnlockKey,
	} {
		if *flag, err = c.strictFlag(name); err != nil {
			return err
		}
	}
	return a.Control.UpdateSwarm(c.Context(), version, spec, rotate)
}
