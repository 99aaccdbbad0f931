// together MODEL PHOTOGRAPH THREADS: sessions that work at the same time give the features that each gives alone.
//
// Two of them share one model, a third has its own, and each prepares its images itself. tools/test --sanitize builds
// this with ThreadSanitizer and runs it with one thread a session: libomp, which ThreadSanitizer cannot see into, then
// has nothing to do, and any memory that two sessions share by mistake is reported.
import Foundation
import HSSLData
import HSSLRuntime

/// A session's work, and what it needs.
struct Job: Sendable {
    let model: Model
    let threads: Int
    let photograph: String

    /// The last of twenty times the features of the photograph, [D].
    func run() throws -> [Float] {
        guard let preprocessing = model.preprocessing else { throw Unprepared() }
        let session = try Session(model: model, threads: threads)
        var features: [Float] = []
        for _ in 0..<20 {
            let image = preprocessing.apply(to: try ImageDecoder.decode(path: photograph))
            features = try session.extract(images: image, count: 1, features: .cls)
        }
        return features
    }
}
struct Unprepared: Error {}

/// Results of jobs at the same time, in their order.
func runTogether(_ jobs: [Job]) async throws -> [[Float]] {
    try await withThrowingTaskGroup(of: (Int, [Float]).self) { group in
        for (place, job) in jobs.enumerated() { group.addTask { (place, try job.run()) } }
        return try await group.reduce(into: jobs.map { _ in [] }) { $0[$1.0] = $1.1 }
    }
}

guard CommandLine.arguments.count == 4, let threads = Int(CommandLine.arguments[3]) else {
    FileHandle.standardError.write(Data("usage: together MODEL PHOTOGRAPH THREADS\n".utf8))
    exit(64)
}
let (path, photograph) = (CommandLine.arguments[1], CommandLine.arguments[2])
let shared = try Model(path: path), own = try Model(path: path)
let jobs = [(shared, threads), (shared, 1), (own, threads)].map { model, threads in
    Job(model: model, threads: threads, photograph: photograph)
}
let alone = try jobs.map { try $0.run() }
guard try await runTogether(jobs) == alone else {
    FileHandle.standardError.write(Data("together: sessions at the same time give other features\n".utf8))
    exit(1)
}
print("together: \(jobs.count) sessions at the same time, the features of each alone")
