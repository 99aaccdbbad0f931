import HSSLGraph
import HSSLModels

@testable import HSSLPretraining

extension TeacherShape {
    /// A teacher of other sizes than any student here.
    static let small = TeacherShape(width: 20, rank: 7, grid: Grid(height: 4, width: 4))
}

extension CropBatch {
    /// Answers of a teacher that is noise, by image and step.
    func answer(_ teacher: TeacherShape = .small, step: Int) {
        let cells = teacher.grid.count * teacher.rank
        var given = TeacherAnswers(globals: [], cells: [])
        for image in range {
            var random = CounterRandom(seed: 11, stream: 5, UInt64(image), UInt64(step))
            given.globals += (0..<teacher.width).map { _ in 0.5 + random.normal() }
            given.cells += (0..<cells).map { _ in random.normal() }
        }
        answers = given
    }
}
