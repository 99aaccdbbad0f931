import Synchronization
#if canImport(Glibc)
    import Glibc
#endif

/// SIGINT, SIGTERM and SIGHUP (a terminal that was closed, taken for SIGTERM) as a flag that a loop polls between
/// steps, so that it ends with everything saved.
///
/// A second SIGINT ends the process at once with status 130: files are replaced atomically, so nothing on disk is
/// harmed.
package enum StopSignal {
    private static let received = Atomic<Int32>(0)

    /// Starts listening. Call before the work that should stop cleanly.
    package static func install() {
        // Made here, so that the handler never runs a lazy initialiser.
        received.store(0, ordering: .relaxed)
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { signal in
            let earlier = StopSignal.received.exchange(signal, ordering: .relaxed)
            if signal == SIGINT, earlier == SIGINT { _exit(ExitStatus.interrupted.rawValue) }
        }
        // System calls go on: the flag is enough, and readers need not care for EINTR.
        action.sa_flags = SA_RESTART
        sigemptyset(&action.sa_mask)
        sigaction(SIGINT, &action, nil)
        sigaction(SIGTERM, &action, nil)
        // Under nohup it is ignored, and stays so.
        var inherited = sigaction()
        sigaction(SIGHUP, nil, &inherited)
        if !isIgnored(inherited) { sigaction(SIGHUP, &action, nil) }
    }

    private static func isIgnored(_ action: sigaction) -> Bool {
        unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
    }

    package static var isRequested: Bool { received.load(ordering: .relaxed) != 0 }

    /// The status to end with once the state is saved; nil when nothing was received.
    package static var exitStatus: ExitStatus? {
        switch received.load(ordering: .relaxed) {
        case 0: nil
        case SIGTERM, SIGHUP: .terminated
        default: .interrupted
        }
    }
}
