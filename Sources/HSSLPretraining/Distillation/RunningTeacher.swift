import CSupport
import HSSLGraph
import HSSLModels
import HSSLRuntime
import Synchronization

/// A teacher that answers by running, with all threads at a time.
package final class RunningTeacher: TeacherSource {
    package let width: Int
    package let rank: Int
    package let grid: Grid
    package var draws: Int? { nil }
    private let wantsCells: Bool
    private let session: Mutex<Box>

    /// A session may be used by one thread at a time, whichever.
    private struct Box: @unchecked Sendable { let session: Session }

    /// - Parameters:
    ///   - threads: with which it runs; they change no bit of an answer.
    ///   - wantsCells: whether answers have cells.
    package init(model: Model, threads: Int, wantsCells: Bool) throws {
        self.wantsCells = wantsCells
        (width, rank) = (model.width, model.width)
        let side = model.architecture.imageSize
        grid = model.architecture.makeBase(ParameterScope(ParameterSet()), .deployment).grid(height: side, width: side)
        let session = try Session(model: model, threads: threads)
        // Whoever plans memory after this finds resident what answering takes.
        let views = [Float](repeating: 0, count: threads * model.imageCount)
        _ = try session.extract(images: views, count: threads, features: wantsCells ? .clsPatch : .cls)
        self.session = Mutex(Box(session: session))
    }

    /// For what is no view: k-NN.
    func withSession<Result>(_ body: (Session) throws -> Result) rethrows -> Result {
        try session.withLock { try body($0.session) }
    }

    package func answers(for keys: [ViewKey], views: TeacherViews) throws -> TeacherAnswers {
        let images = try views(), count = keys.count
        let features = wantsCells ? Features.clsPatch : .cls
        let rows = try session.withLock { try $0.session.extract(images: images, count: count, features: features) }
        guard wantsCells else { return TeacherAnswers(globals: rows, cells: []) }
        let cells = grid.count * width, row = width + cells
        var answers = TeacherAnswers(globals: [], cells: [])
        answers.globals.reserveCapacity(count * width)
        answers.cells.reserveCapacity(count * cells)
        for image in 0..<count {
            answers.globals += rows[image * row..<image * row + width]
            answers.cells += rows[image * row + width..<(image + 1) * row]
        }
        return answers
    }
}
