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
	// As CRI-O does it: the network is checked before anything else, and plugins of NRI are told of the end of a
	// sandbox with op stopped, some time after its network has been taken away.
	Crio bool `json:"crio"`
	// What its container does first, all at once: connections to these, each tried for so long; and it listens on
	// a UDP port until the connections have ended.
	Dial   []target `json:"dial"`
	Listen int      `json:"listen"`
}

type target struct {
	Address   string `json:"address"`
	PatientMs int    `json:"patient_ms"`
}

type answer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	// Seconds that the network took, the plugins of NRI took, and each connection took.
	Network float64   `json:"network"`
	Nri     float64   `json:"nri"`
	Dials   []dialled `json:"dials,omitempty"`
	Heard   []heard   `json:"heard,omitempty"`
}

// Who was heard on the UDP port, how often, and when first, in seconds from the container's beginning.
type heard struct {
	Source  string  `json:"source"`
	Packets int     `json:"packets"`
	Seconds float64 `json:"seconds"`
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
	case "stopped":
		return stopped(ctx, asked)
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
	if asked.Crio {
		if err := cni.CheckNetworkList(ctx, network, conf); err != nil {
			return err
		}
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
	return begin(asked, said)
}

func del(ctx context.Context, asked *request) error {
	cni, network, conf, err := libcniOf(asked)
	if err != nil {
		return err
	}
	if !asked.Crio {
		if err := stopped(ctx, asked); err != nil {
			return err
		}
	}
	return cni.DelNetworkList(ctx, network, conf)
}

// stopped tells plugins of NRI that a sandbox has ended, or is about to.
func stopped(ctx context.Context, asked *request) error {
	pod := running[asked.Id]
	delete(running, asked.Id)
	if nri == nil || pod == nil {
		return nil
	}
	return nri.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: pod})
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

// begin does what the container does first, from within the sandbox. Each thread ends with what it does.
func begin(asked *request, said *answer) error {
	came := make(chan dialled, len(asked.Dial))
	over := make(chan struct{})
	listened := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		found, err := listen(asked, over)
		said.Heard = found
		listened <- err
	}()
	for _, one := range asked.Dial {
		go func() {
			runtime.LockOSThread()
			found := dialled{Address: one.Address}
			began := time.Now()
			if err := dial(asked, one); err != nil {
				found.Error = err.Error()
			}
			found.Seconds = time.Since(began).Seconds()
			came <- found
		}()
	}
	for range asked.Dial {
		said.Dials = append(said.Dials, <-came)
	}
	close(over)
	return <-listened
}

func enter(asked *request) error {
	netns, err := unix.Open(asked.Netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(netns)
	return unix.Setns(netns, unix.CLONE_NEWNET)
}

func dial(asked *request, to target) error {
	if err := enter(asked); err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: time.Duration(to.PatientMs) * time.Millisecond}
	connection, err := dialer.Dial("tcp", to.Address)
	if err != nil {
		return err
	}
	return connection.Close()
}

func listen(asked *request, over <-chan struct{}) ([]heard, error) {
	if asked.Listen == 0 {
		return nil, nil
	}
	if err := enter(asked); err != nil {
		return nil, err
	}
	began := time.Now()
	socket, err := net.ListenPacket("udp", fmt.Sprintf("[::]:%d", asked.Listen))
	if err != nil {
		return nil, err
	}
	go func() {
		<-over
		socket.Close()
	}()
	var found []heard
	places := map[string]int{}
	buffer := make([]byte, 64)
	for {
		_, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return found, nil
		}
		source := from.(*net.UDPAddr).IP.String()
		at, known := places[source]
		if !known {
			at = len(found)
			places[source] = at
			found = append(found, heard{Source: source, Seconds: time.Since(began).Seconds()})
		}
		found[at].Packets++
	}
}
