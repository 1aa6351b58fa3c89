package container

import "github.com/nslab/nslab/course"

// zh is what the steps say, in Chinese.
func zh() course.Messages {
	return course.Messages{
		// stages
		"lab %s · calls: %s · %s: %s": "实验 %s · 调用 %s 次 · %s：%s",
		"together %s calls, %s in the kernel; from the first to the running program %s":     "共 %s 次调用，在内核里用时 %s；从第一次调用到程序运行共 %s",
		"each stage has come, and in its order":                                             "每个阶段都出现了，顺序也对",
		"the last call is in no list, for nobody is left to tell of it: /proc/%s/exe → %s":  "最后一次调用不在任何列表里，因为已经没有谁能报告它：/proc/%s/exe → %s",
		"NSpid %s; its own /proc lists: %s; its host's name: %s; namespaces of its own: %s": "NSpid %s；它自己的 /proc 列出：%s；主机名：%s；它自己的命名空间：%s",
		"inside it is number 1, as the kernel and the program say":                          "在里面它是 1 号，内核和程序说的一致",
		"it sees no process but itself":                                                     "除了自己，它看不到别的进程",
		"it has a host name of its own":                                                     "它有自己的主机名",
		"and the six namespaces that were asked for":                                        "也有规范要求的六个命名空间",
		"the folder of the host is there as a volume":                                       "宿主机的目录在里面，成了卷",
		"/proc/%s/cgroup: %s":                                                               "/proc/%s/cgroup：%s",
		"it is in its own control group":                                                    "它在自己的控制组里",
		"it has no control group: an ordinary user may make none here (%s)":                 "它没有控制组：普通用户在这里不能创建（%s）",

		// init
		"nslab's own file: %s":                                    "nslab 自己的文件：%s",
		"all is arranged; the program is not there yet:":          "一切安排妥当，用户的程序还没有出现：",
		"execve, and then:":                                       "execve 之后：",
		"process %s: exe → %s, file %s, comm %s, %s":              "进程 %s：exe → %s，文件 %s，comm %s，%s",
		"before, the file that it executes is nslab's":            "之前，它执行的文件是 nslab 的",
		"after, it is the program of the image":                   "之后，是镜像里的程序",
		"it is the same process: it was started at the same tick": "还是同一个进程：启动时刻没有变",
		"and number 1 inside":                                     "在里面是 1 号",
		"the capabilities are fewer":                              "capability 变少了",
		"and so is the bounding set, beyond which nobody gets":    "边界集也是，谁也越不过它",
		"from no seccomp filter to one":                           "从没有 seccomp 过滤器变成有",
		"and no program can bring rights back":                    "而且任何程序都不能把权限带回来",
		"it has one thread, and that is the program's":            "它只有一个线程，就是用户程序的线程",

		// layers
		"the image, read-only: etc has %s":                                                "镜像，只读：etc 里有 %s",
		"the init layer, read-only: etc has %s":                                           "init 层，只读：etc 里有 %s",
		"the read-write layer: etc has %s; at its top: %s":                                "可读写层：etc 里有 %s；最上级有：%s",
		"and the container: etc has %s":                                                   "而容器里：etc 里有 %s",
		"hosts is that of the init layer, which hides the image's":                        "hosts 是 init 层的那一份，盖住了镜像里的",
		"the image's own is as it was":                                                    "镜像自己的那一份没有变",
		"what was changed lies in the read-write layer, and the image still has the old":  "改过的文件在可读写层里，镜像里仍是旧的",
		"what was deleted is a whiteout there":                                            "删掉的文件在那里是一个 whiteout",
		"and what the runtime has made is not there: a commit does not take it":           "运行时创建的东西不在那里：commit 不会带走",
		"on / in the container's mount table: %s; mounts on the same folder here: %s":     "容器的挂载表里，/ 上是：%s；同一个目录在这里的挂载数：%s",
		"its branches there, the topmost first: %s":                                       "它的各个分支，从上到下：%s",
		"three kinds of branches, in this order, are what the container has for its root": "容器的根就是这三种分支，按这个顺序叠成",
		"it is in the container's table only":                                             "它只在容器的挂载表里",
		"and no line of the host's table is about it":                                     "宿主机的挂载表里没有一行与它有关",
		"out here the folder is empty":                                                    "在外面看，这个目录是空的",

		// limits
		"left out: an ordinary user may make no control group here (%s)": "略过：普通用户在这里不能创建控制组（%s）",
		"trying to make one fails":                                       "试着创建，会失败",
		"%s: %s":                                                         "%s：%s",
		"the container's own group has the period":                       "容器自己的控制组有这个周期",
		"and the quota":                                                  "也有这个配额",
		"its program is in that group":                                   "它的程序在这个控制组里",
		"its loop used %s of a CPU in %s; throttled in %s periods":       "死循环在 %[2]s 内用了一个 CPU 的 %[1]s；有 %[3]s 个周期被限流",
		"it gets a fifth of a CPU, a quarter at most":                    "它得到五分之一个 CPU，最多不超过四分之一",
		"the machine is busy: others left it less than its quota, which was never used up": "机器正忙：别的进程留给它的还不到配额，所以配额一次也没用完",
		"for the kernel takes it off the CPU when its quota is used up":                    "因为配额用完后，内核就不让它上 CPU",
		"and it got its quota in those periods":                                            "而在这些周期里，它用到了配额",

		// single
		"in the container: %s": "容器里：%s",
		"one signal to number 1 alone; processes in its PID namespace: %s before, %s now": "只给 1 号发了一个信号；它的 PID 命名空间里的进程数：之前 %s，现在 %s",
		"there were three":                         "原来有三个",
		"number 1 is gone, and with it all others": "1 号没有了，其他的也随之消失",
		"it stays, as a zombie":                    "它留了下来，成了僵尸",

		"number 1 is sleep, which waits for nobody: %s; the orphan ends: %s": "1 号是 sleep，它从不 wait：%s；孤儿进程结束之后：%s",
		"with --init, number 1 is nslab: %s; the orphan ends: %s":            "用 --init，1 号是 nslab：%s；孤儿进程结束之后：%s",

		// alone
		"a process of its own is the runtime, %s; the container is %s, child of %s": "运行时是一个单独的进程，%s；容器是 %s，父进程是 %s",
		"the container's number 1 is the runtime's child":                           "容器的 1 号是运行时的子进程",
		"the runtime is gone; process %s: %s, child of %s %s":                       "运行时没有了；进程 %s：%s，父进程是 %s %s",
		"its program counts in a file: %s, and a moment later %s":                   "它的程序在文件里计数：%s，片刻之后是 %s",
		"no runtime is left": "运行时已经不在了",
		"the container lives on, the same process as before":                      "容器照常运行，还是原来的进程",
		"it was given to another parent, like every orphan":                       "它像所有孤儿一样，换了父进程",
		"%s says: id %s, process %s, started at tick %s":                          "%s 里写着：id %s，进程 %s，启动时刻 %s",
		"found by what is on disk, and asked of the kernel: it runs":              "靠磁盘上的记录找到它，再向内核求证：它在运行",
		"a signal through a pidfd; what the program has written: %s; status: %s":  "通过 pidfd 发一个信号；程序写下的内容：%s；状态：%s",
		"its program has heard the signal":                                        "它的程序收到了信号",
		"and ended":                                                               "并且结束了",
		"deleted: folders of control groups removed: %s, left: %s; its state: %s": "已删除：删掉控制组目录 %s 个，剩下 %s 个；它的状态文件：%s",
		"nothing of it is left":                                                   "它没有留下任何东西",

		// undone
		"the answer: %s": "得到的回答：%s",
		"control groups made: %s, removed: %s; of ours now: processes %s, control groups %s, state: %s": "创建控制组 %s 个，删除 %s 个；现在属于我们的：进程 %s，控制组 %s，状态文件：%s",
		"a volume whose source is not there: nothing is left":                                           "卷的源不存在：没有任何遗留",
		"a limit that the kernel refuses: nothing is left":                                              "限制被内核拒绝：没有任何遗留",
		"a program that is not in the image: nothing is left":                                           "镜像里没有这个程序：没有任何遗留",

		// exec
		"number 1, process %s: %s":                                                                          "1 号，进程 %s：%s",
		"who only entered the namespaces, process %s: %s":                                                   "只进了命名空间的程序，进程 %s：%s",
		"exec, process %s: %s":                                                                              "exec，进程 %s：%s",
		"namespaces that they do not share: %s; the container's /proc lists: %s":                            "不共用的命名空间：%s；容器的 /proc 列出：%s",
		"exec is in every namespace of the container":                                                       "容器的每个命名空间，exec 都进去了",
		"and has a number there, which it knows":                                                            "它在里面有编号，自己也知道",
		"it has the rights of number 1, and its filter":                                                     "它的权限和过滤器与 1 号相同",
		"namespaces alone bring no such limits: who has only entered has more rights":                       "光有命名空间没有这些限制：只进命名空间的程序权限更多",
		"and it counts against the same control groups":                                                     "它也算在同样的控制组里",
		"its terminal lies in the file system %s; the container's /dev/pts is %s, ours %s; its session: %s": "它的终端在文件系统 %s 上；容器的 /dev/pts 是 %s，我们的是 %s；它的会话：%s",
		"its terminal is one of the container's own /dev/pts":                                               "它的终端来自容器自己的 /dev/pts",
		"and none of ours": "不是我们的终端",
		"it leads a session of its own: it cannot type into the caller's shell": "它是自己会话的首进程：不能往调用者的 shell 里输入",

		// sealed
		"executed by its name, as number 1 of a container; written through /proc/PID/exe: %s while it runs, %s when it has ended": "按文件名执行，作为容器的 1 号；通过 /proc/PID/exe 写：运行时 %s，结束后 %s",
		"a running program is protected; one that has ended is not":                                                               "正在运行的程序受保护，结束了的就没有保护",
		"executed by the stage: number 1 is file %s; the runtime's: %s":                                                           "由 stage 执行：1 号的文件是 %s；运行时的文件：%s",
		"root inside, who writes to /proc/1/exe, is told: %s":                                                                     "里面的 root 去写 /proc/1/exe，得到的回答：%s",
		"nobody inside can write to it while it runs":                                                                             "运行期间，里面谁也写不了",
		"written through the same descriptor: %s while it runs, %s when it has ended":                                             "通过同一个描述符写：运行时 %s，结束后 %s",
		"nor when nobody executes it any more: the way that leads to it is read-only":                                             "没有人执行了也写不了：通向它的路是只读的",
		"on the host, by its name: %s":                                                                                            "在宿主机上，按文件名写：%s",
		"the file itself is as it was: an update of nslab can write it":                                                           "文件本身没有变：升级 nslab 时可以写它",

		// cost
		"start and end of a program that does nothing: bare %s; in a container, with all that is made and removed, %s":         "启动并结束一个什么也不做的程序：直接运行 %s；在容器里，连同创建和删除 %s",
		"memory of a program that sleeps: bare %s; in a container %s; and nobody beside it":                                    "一个睡眠程序的内存：直接运行 %s；在容器里 %s；旁边没有别的进程",
		"a system call: bare %s; in a container without a filter %s; with the default filter %s":                               "一次系统调用：直接运行 %s；容器里不带过滤器 %s；带默认过滤器 %s",
		"a start is a matter of milliseconds, not of seconds":                                                                  "启动是毫秒级的事，不是秒级",
		"the program needs the memory that it needs anyhow":                                                                    "程序用的内存就是它本来要用的",
		"namespaces and control groups do not stand in the way of a system call":                                               "命名空间和控制组不妨碍系统调用",
		"a virtual machine is left out: there is no %s here":                                                                   "略过虚拟机：这里没有 %s",
		"a virtual machine is left out: no kernel that can be read lies in /boot (make test-vm fetches one)":                   "略过虚拟机：/boot 里没有可读的内核（make test-vm 会取一个来）",
		"a virtual machine is left out: %s":                                                                                    "略过虚拟机：%s",
		"a virtual machine (qemu, %s), from its start to its first program: %s; qemu's memory: %s; a system call in there: %s": "虚拟机（qemu，%s），从启动到第一个程序：%s；qemu 的内存：%s；里面的一次系统调用：%s",
		"it takes many times as long to start: it boots a kernel":                                                              "启动时间是许多倍：它要启动一个内核",
		"and its memory holds that kernel, and all that belongs to it":                                                         "它的内存里有这个内核以及属于它的一切",
	}
}
