// A container runtime as small as a test needs: it does what a real one does between a pod's network and its
// first instruction, with the same libraries. Networks are made by libcni, which also keeps each result; plugins
// of NRI are called by its own adaptation.
//
// It reads one request for each line of its input, as JSON, and answers each with a line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

type request struct {
	Op string `json:"op"`
	// Of op nri: where the socket is, and how long a plugin may take, in milliseconds.
	Socket    string `json:"socket"`
	TimeoutMs int    `json:"timeout_ms"`
	// The network, as a list of plugins, and where libcni looks for these and keeps results.
	Network json.RawMessage `json:"network"`
	Plugins string          `json:"plugins"`
	Cache   string          `json:"cache"`
	// The sandbox.
	Id        string         `json:"id"`
	Netns     string         `json:"netns"`
	Ifname    string         `json:"ifname"`
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	Uid       string         `json:"uid"`
	Ips       bool           `json:"ips"`
	Caps      map[string]any `json:"caps"`
	// What its container does first: connections to these, all at once.
	Dial      []string `json:"dial"`
	PatientMs int      `json:"patient_ms"`
}

type answer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	// Seconds that the network took, the plugins of NRI took, and each connection took.
	Network float64   `json:"network"`
	Nri     float64   `json:"nri"`
	Dials   []dialled `json:"dials,omitempty"`
}

type dialled struct {
	Address string  `json:"address"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

var nri *adaptation.Adaptation

// Sandboxes that run, for plugins that register later.
var running = map[string]*adaptation.PodSandbox{}

func main() {
	requests := bufio.NewScanner(os.Stdin)
	requests.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for requests.Scan() {
		var asked request
		var said answer
		err := json.Unmarshal(requests.Bytes(), &asked)
		if err == nil {
			err = serve(&asked, &said)
		}
		if err != nil {
			said.Error = err.Error()
		}
		answers.Encode(said)
	}
	if nri != nil {
		nri.Stop()
	}
}

func serve(asked *request, said *answer) error {
	ctx, end := context.WithTimeout(context.Background(), time.Minute)
	defer end()
	switch asked.Op {
	case "nri":
		return startNri(asked)
	case "add":
		return add(ctx, asked, said)
	case "del":
		return del(ctx, asked)
	}
	return fmt.Errorf("unknown op %q", asked.Op)
}

func startNri(asked *request) error {
	adaptation.SetPluginRequestTimeout(time.Duration(asked.TimeoutMs) * time.Millisecond)
	synchronize := func(ctx context.Context, tell adaptation.SyncCB) error {
		var pods []*adaptation.PodSandbox
		for _, pod := range running {
			pods = append(pods, pod)
		}
		_, err := tell(ctx, pods, nil)
		return err
	}
	update := func(context.Context, []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
		return nil, nil
	}
	none := asked.Socket + ".none"
	made, err := adaptation.New(
		"lab", "1.0", synchronize, update,
		adaptation.WithSocketPath(asked.Socket),
		adaptation.WithPluginPath(none), adaptation.WithPluginConfigPath(none),
	)
	if err != nil {
		return err
	}
	nri = made
	return nri.Start()
}

func libcniOf(asked *request) (*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	network, err := libcni.ConfListFromBytes(asked.Network)
	if err != nil {
		return nil, nil, nil, err
	}
	args := [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", asked.Namespace},
		{"K8S_POD_NAME", asked.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", asked.Id},
		{"K8S_POD_UID", asked.Uid},
	}
	conf := &libcni.RuntimeConf{
		ContainerID: asked.Id, NetNS: asked.Netns, IfName: asked.Ifname, Args: args, CapabilityArgs: asked.Caps,
	}
	return libcni.NewCNIConfigWithCacheDir([]string{asked.Plugins}, asked.Cache, nil), network, conf, nil
}

func add(ctx context.Context, asked *request, said *answer) error {
	cni, network, conf, err := libcniOf(asked)
	if err != nil {
		return err
	}
	began := time.Now()
	result, err := cni.AddNetworkList(ctx, network, conf)
	if err != nil {
		return err
	}
	said.Network = time.Since(began).Seconds()
	said.Result, err = json.Marshal(result)
	if err != nil {
		return err
	}
	pod := &adaptation.PodSandbox{Id: asked.Id, Name: asked.Name, Uid: asked.Uid, Namespace: asked.Namespace}
	if asked.Ips {
		pod.Ips = addressesOf(result)
	}
	if nri != nil {
		began = time.Now()
		if err := nri.RunPodSandbox(ctx, &adaptation.RunPodSandboxRequest{Pod: pod}); err != nil {
			return err
		}
		said.Nri = time.Since(began).Seconds()
	}
	running[asked.Id] = pod
	said.Dials, err = dialAll(asked)
	return err
}

func del(ctx context.Context, asked *request) error {
	cni, network, conf, err := libcniOf(asked)
	if err != nil {
		return err
	}
	pod := running[asked.Id]
	delete(running, asked.Id)
	if nri != nil && pod != nil {
		if err := nri.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: pod}); err != nil {
			return err
		}
	}
	return cni.DelNetworkList(ctx, network, conf)
}

func addressesOf(result types.Result) []string {
	var read struct {
		Ips []struct {
			Address string `json:"address"`
		} `json:"ips"`
	}
	text, _ := json.Marshal(result)
	json.Unmarshal(text, &read)
	var found []string
	for _, one := range read.Ips {
		if address, _, err := net.ParseCIDR(one.Address); err == nil {
			found = append(found, address.String())
		}
	}
	return found
}

// dialAll connects to every address from within the sandbox, each on a thread of its own that ends with it.
func dialAll(asked *request) ([]dialled, error) {
	came := make(chan dialled, len(asked.Dial))
	for _, address := range asked.Dial {
		go func() {
			runtime.LockOSThread()
			found := dialled{Address: address}
			began := time.Now()
			if err := dial(asked, address); err != nil {
				found.Error = err.Error()
			}
			found.Seconds = time.Since(began).Seconds()
			came <- found
		}()
	}
	var found []dialled
	for range asked.Dial {
		found = append(found, <-came)
	}
	return found, nil
}

func dial(asked *request, address string) error {
	netns, err := unix.Open(asked.Netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(netns)
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: time.Duration(asked.PatientMs) * time.Millisecond}
	connection, err := dialer.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := connection.Write([]byte("x")); err != nil && err != io.EOF {
		return err
	}
	return nil
}
